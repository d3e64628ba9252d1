"""Losses that are no ordinary ones: NaN, Inf, or several times those before."""

from __future__ import annotations

import sys
from math import inf

from netdoctor.probes.scalars import Scalar

JUMP = 4.0  # times the losses before: healthy runs reach 3
MEMORY = 50  # losses
FORGET = 1 - 1 / MEMORY


class Jumps:
    """Compares each loss with those before. What is not a number yet passes for ordinary: no device is waited for.

    Attributes:
        jumped: Whether the last loss was no ordinary one.
    """

    def __init__(self) -> None:
        self.jumped = False
        self._usual = 0.0  # about the largest magnitude of the last `MEMORY` losses
        self._losses = 0

    def add(self, loss: Scalar) -> bool:
        """Whether the loss has jumped."""
        if not isinstance(loss, float):
            return False
        size = abs(loss)
        self.jumped = not size <= (JUMP * self._usual if self._losses > MEMORY else sys.float_info.max)  # NaN is not
        if size < inf:
            self._usual = max(size, FORGET * self._usual)
            self._losses += 1
        return self.jumped
