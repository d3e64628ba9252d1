"""Single numbers on their way into the history, kept on their device until they can be read without waiting."""

from __future__ import annotations

import math

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

    def keep(self, step: int, statistic: str, value: Scalar, column: str = "") -> None:
        """Take in one number, a 0-d tensor or a float."""
        self._kept.append((step, statistic, column, value))

    def drop(self, step: int, statistic: str) -> None:
        """Forget what was kept of a statistic for a step."""
        self._kept = [entry for entry in self._kept if entry[:2] != (step, statistic)]

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
            for step, statistic, column, value in entries:
                number = next(arrived) if isinstance(value, Tensor) else value
                history.record(step, statistic, [number], (column,))
                if statistic == "loss" and not math.isfinite(number):
                    self.non_finite = True
                    history.record(step, "non_finite_loss", [1.0])

    def _send(self) -> None:
        tensors = [value.detach().reshape(()).float() for *_, value in self._kept if isinstance(value, Tensor)]
        self._sent.append((self._kept, Transfer(together(tensors)) if tensors else None))
        self._kept = []
