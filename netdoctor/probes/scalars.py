"""Single numbers on their way into the history, kept on their device until they can be read without waiting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter

import numpy as np
from torch import Tensor

from netdoctor.history import History
from netdoctor.probes.transfer import Transfer, together

Scalar = Tensor | float
Entry = tuple[int, str, str, Scalar]  # step, statistic, column, value


class Scalars:
    """A queue: `keep` never waits; `flush` moves what has arrived into the history, in order.

    Attributes:
        non_finite: Whether a loss that was flushed was NaN or Inf.
    """

    def __init__(self) -> None:
        self.non_finite = False
        self._kept: list[Entry] = []
        self._sent: list[tuple[list[Entry], Transfer | None]] = []
        self._withheld: dict[int, Scalar] | None = None  # losses that wait for those of other ranks, by step
        self._explicit: set[int] = set()  # steps whose loss is not to be averaged

    def keep(self, step: int, statistic: str, value: Scalar, column: str = "") -> None:
        """Take in one number, a 0-d tensor or a float."""
        if self._withheld is not None and statistic == "loss" and not column:
            self._withheld[step] = value
            return
        self._kept.append((step, statistic, column, value))

    def drop(self, step: int, statistic: str) -> None:
        """Forget what was kept of a statistic for a step, its first column, for a value that the user gives."""
        if self._withheld is not None and statistic == "loss":
            self._explicit.add(step)
        self._kept = [entry for entry in self._kept if entry[:3] != (step, statistic, "")]

    def withhold(self) -> None:
        """Keep the losses back from now on: each is to be averaged over the ranks."""
        self._withheld = {}

    def withheld_losses(self, steps: range) -> dict[int, Scalar]:
        """The losses of these steps that are kept back."""
        withheld = self._withheld or {}
        return {step: withheld[step] for step in steps if step in withheld}

    def averaged(self, losses: Mapping[int, float]) -> None:
        """Losses have been averaged: they count, except where the user gave one."""
        withheld = self._withheld or {}
        for step, mean in losses.items():
            own = withheld.pop(step, mean)
            self._kept.append((step, "loss", "", own if step in self._explicit else mean))
        self._explicit -= losses.keys()

    def release(self) -> None:
        """Withhold no losses any more: those that wait count as they are."""
        withheld, self._withheld = self._withheld, None
        for step, loss in (withheld or {}).items():
            self.keep(step, "loss", loss)

    @property
    def waiting(self) -> int:
        """Numbers kept since the last flush."""
        return len(self._kept)

    def flush(self, history: History, wait: bool = True) -> None:
        """Move numbers into the history: all of them, or without waiting only those that have arrived."""
        if self._kept:
            self._send()
        while self._sent and (wait or self._sent[0][1] is None or self._sent[0][1].ready):
            entries, transfer = self._sent.pop(0)
            arrived = iter(() if transfer is None else transfer.numpy().tolist())
            series: dict[str, list[tuple[int, str, float]]] = {}
            for step, statistic, column, value in entries:
                number = next(arrived) if isinstance(value, Tensor) else value
                series.setdefault(statistic, []).append((step, column, number))
                if statistic == "loss" and not math.isfinite(number):
                    self.non_finite = True
                    series.setdefault("non_finite_loss", []).append((step, "", 1.0))
            for statistic, readings in series.items():
                _record(history, statistic, readings)

    def _send(self) -> None:
        tensors = [value.detach().reshape(()).float() for *_, value in self._kept if isinstance(value, Tensor)]
        self._sent.append((self._kept, Transfer(together(tensors)) if tensors else None))
        self._kept = []


def _record(history: History, statistic: str, readings: list[tuple[int, str, float]]) -> None:
    """Readings of one statistic: at once where they are of one column.

    What the user gave for a step ahead may have come before another optimizer's loss of a step before.
    """
    known = history.table(statistic).steps
    readings = sorted((r for r in readings if not len(known) or r[0] >= known[-1]), key=itemgetter(0))
    if not readings:
        return
    steps, columns, numbers = zip(*readings, strict=True)
    if len(set(columns)) == 1:
        history.record_rows(steps, statistic, np.array(numbers)[:, None], columns[:1])
        return
    for step, column, number in readings:
        history.record(step, statistic, [number], (column,))
