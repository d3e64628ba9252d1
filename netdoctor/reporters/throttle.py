"""Bounds how often something is sent: densely at first, where a run is most interesting, then ever more seldom."""

from __future__ import annotations

from time import monotonic

BURST = 50  # calls at once: the samples of the first 50 steps


class Throttle:
    """A bucket of permissions that fills by one every ``seconds``.

    Args:
        seconds: Between two calls in the long run.
        burst: What the bucket holds, full at the start.
    """

    def __init__(self, seconds: float, burst: int = BURST) -> None:
        self._seconds = seconds
        self._burst = burst
        self._left = float(burst)
        self._last = monotonic()

    def ready(self) -> bool:
        """Whether to send now; uses up a permission."""
        now = monotonic()
        if self._seconds > 0:
            self._left = min(self._left + (now - self._last) / self._seconds, self._burst)
        else:
            self._left = self._burst
        self._last = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Growth:
    """Lets through large things: at steps that grow by a factor, some time apart.

    Args:
        first: Step of the first.
        factor: By how much the step grows until the next.
        seconds: Between two at least, and before the first.
    """

    def __init__(self, first: int = 20, factor: float = 1.5, seconds: float = 30.0) -> None:
        self._next = float(first)
        self._factor = factor
        self._seconds = seconds
        self._last = monotonic()

    def ready(self, step: int) -> bool:
        """Whether it is time for the next at ``step``; takes it for sent then."""
        now = monotonic()
        if step < self._next or now - self._last < self._seconds:
            return False
        self._next, self._last = step * self._factor, now
        return True
