"""Which steps are sampled: dense at the start, where initialisation shows, then as sparse as the budget demands."""

from __future__ import annotations

import sys
from collections import deque
from math import ceil
from statistics import median
from time import perf_counter

DENSE_STEPS = 20  # every step up to here: faults of the start show in the first steps
STARTUP_STEPS = 50  # every 5th up to here
STARTUP_SECONDS = 2.0  # the start may cost this much in all, whatever the budget
MARGIN = 0.5  # share of the budget that is planned: the costs of single samples scatter by as much
HICCUP = 3.0  # times the median cost that a single cost counts at most: the machine does other things, too
FEWEST = 5  # steps without a sample that tell how long a step takes
LONGEST = 5000  # steps between samples at most, or 10 % of the run if that is longer


class Pace:
    """Spaces a recurring cost so that it stays below a share of the training time.

    Args:
        budget: Share of the time that it may take, 0 to 1.
        every: A fixed number of steps between two instead.
    """

    def __init__(self, budget: float, every: int | None = None) -> None:
        self.budget = budget
        self.every = every
        self.next = 1
        self.spent = 0.0
        self._start = 0  # the step after which the start began
        self._costs: deque[float] = deque(maxlen=9)

    def start_after(self, step: int) -> None:
        """Begin anew: the step after ``step`` is the first one."""
        self._start, self.next = step, step + 1

    def stop(self) -> None:
        """Never again."""
        self.next = sys.maxsize

    def affords(self, seconds: float) -> bool:
        """Whether it may happen once more, out of turn, within its share of so many seconds of training."""
        return self.every is None and self.spent + max(self._costs, default=0.0) < self.budget * seconds

    def done(self, step: int, seconds: float, step_seconds: float) -> None:
        """Note what it cost at ``step`` and plan the next, given the duration of a step without it."""
        self._costs.append(seconds)
        self.spent += min(seconds, HICCUP * median(self._costs))
        if self.every is not None:
            self.next = step + self.every
        elif step - self._start < DENSE_STEPS and self.spent < STARTUP_SECONDS:
            self.next = step + 1
        elif step - self._start < STARTUP_STEPS and self.spent < STARTUP_SECONDS:
            self.next = step + 5
        else:
            needed = median(self._costs) / (self.budget * MARGIN * max(step_seconds, 1e-6))
            self.next = step + max(1, min(ceil(needed), max(LONGEST, step // 10)))


class Schedule:
    """Sampling and judging, each paced within its part of the budget, and the clock of the steps."""

    def __init__(self, budget: float, every: int | None) -> None:
        self.sampling = Pace(budget * 0.7, every)
        self.judging = Pace(budget * 0.3)
        self.clock = perf_counter  # a benchmark that runs other things between the steps gives its own
        self.seconds = 0.0  # of training, netdoctor's share included
        self._plain: deque[float] = deque(maxlen=33)  # durations of steps without a sample
        self._sampled: deque[float] = deque(maxlen=33)  # of those with one, netdoctor's part left out
        self._last = 0.0

    def tick(self, own: float, steps: int = 1, sampled: bool = False) -> float:
        """So many steps ended just now, of which netdoctor took ``own`` seconds on the host.

        Returns:
            What a sample cost: ``own``, or by how much the step took longer than those without a sample. The work of a
            device and the caches that a sample spoils show only there.
        """
        now = self.clock()
        cost = own
        if not self._last:
            self.seconds += own  # how long the first step took is not known
        else:
            duration = now - self._last
            self.seconds += duration
            if sampled and len(self._plain) >= FEWEST:
                cost = max(own, duration - median(self._plain))
            (self._sampled if sampled else self._plain).append(max(duration - own, 0.0) / steps)
        self._last = now
        return cost

    def resume(self) -> None:
        """The next step begins just now: what netdoctor did since the last one ended is none of it."""
        now = self.clock()
        self.seconds += now - self._last
        self._last = now

    @property
    def step_seconds(self) -> float:
        """Median duration of a step without netdoctor: validation passes between steps do not count."""
        durations = self._plain if len(self._plain) >= FEWEST else [*self._plain, *self._sampled]
        return median(durations) if durations else 0.0

    @property
    def spent(self) -> float:
        """Seconds that netdoctor took so far."""
        return self.sampling.spent + self.judging.spent

    @property
    def overhead(self) -> float:
        """The same as a share of the training time."""
        return min(self.spent / self.seconds, 1.0) if self.seconds > 0 else 0.0
