"""The steps between two samples: their losses are taken down, and nothing else is looked at.

A training step leaves netdoctor's code and data out of the caches, so each line here takes ten times as long as in a
loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from torch import Tensor
from torch.optim import Optimizer

from netdoctor.probes.jumps import Jumps
from netdoctor.probes.scalars import Scalar


class Rest:
    """Steps of the one optimizer at work. Whatever else happens ends them.

    Args:
        optimizer: Its ``id``.
        since: The step before the first one.
        steps: How many.
        value: Reads a loss; None for one that does not count.
        trace: Called with each loss, and its value, that is NaN, Inf or not known yet.
        jumps: Tells of losses that are no ordinary ones; the rest ends there.
        each: Called after each step, where something else is to be done.

    Attributes:
        losses: Of each step so far, None for one without.
        open: Those of the step that is under way.
        stale: Whether an optimizer of another model took them.
    """

    def __init__(
        self,
        optimizer: int,
        since: int,
        steps: int,
        value: Callable[[Tensor], Scalar | None],
        trace: Callable[[Tensor, Scalar], object],
        jumps: Jumps,
        each: Callable[[Optimizer], object] | None,
    ) -> None:
        self.optimizer, self.since = optimizer, since
        self.losses: list[Scalar | None] = []
        self.open: list[Scalar] = []
        self.stale = False
        self._left = steps
        self._value, self._trace, self._jumped, self._each = value, trace, jumps.add, each

    def add(self, loss: Tensor) -> None:
        """`backward` is about to run from ``loss``."""
        if self.stale:
            self.open, self.stale = [], False
        value = self._value(loss)
        if value is not None:
            self.open.append(value)
            if not isinstance(value, float) or not isfinite(value):
                self._trace(loss, value)

    def stepped(self, optimizer: Optimizer) -> bool:
        """The optimizer has made a step; whether the rest goes on."""
        self._left -= 1
        loss = None
        if self.open:
            loss = self.open[0] if len(self.open) == 1 else added(self.open)
            self.open, self.stale = [], False
        self.losses.append(loss)
        if self._each is not None:
            self._each(optimizer)
        return self._left > 0 and (loss is None or not self._jumped(loss))


def added(losses: list[Scalar]) -> Scalar:
    """The sum of what went backward for one step."""
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total
