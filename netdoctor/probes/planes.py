"""Samples of several steps in one buffer: a pass over four of them costs little more than over one.

Where a training step has pushed code and data out of the caches, each operation takes longer to start than to run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netdoctor.probes.sampling import ROWS, UNITS, Samples
from netdoctor.probes.transfer import Transfer

PLANES = 4  # steps whose samples are reduced together where they are frequent: more would save the last quarter


class Round:
    """Samples in neighbouring planes whose sums are worked out together, as soon as one of them is asked for.

    Args:
        first: The first plane.
        reduce: Gives the sums on each device, [planes, …], of the planes from one to before another.
    """

    def __init__(self, first: int, reduce: Callable[[int, int], dict[torch.device, Tensor]]) -> None:
        self.first = self.end = first
        self._reduce = reduce
        self._sums: dict[torch.device, Transfer] | None = None

    @property
    def settled(self) -> bool:
        """Whether the sums are under way; no plane comes in any more."""
        return self._sums is not None

    def settle(self) -> dict[torch.device, Transfer]:
        """Send the sums on their way to the host."""
        if self._sums is None:
            with torch.no_grad():
                self._sums = {device: Transfer(sums) for device, sums in self._reduce(self.first, self.end).items()}
        return self._sums


class Deferred:
    """The sums of one plane of a round on one device, as `Transfer` is of its tensor."""

    def __init__(self, taken: Round, plane: int, device: torch.device) -> None:
        self._round, self._plane, self._device = taken, plane, device

    @property
    def ready(self) -> bool:
        """Whether `numpy` would not wait; whoever asks has the sums worked out."""
        return self._round.settle()[self._device].ready

    def numpy(self) -> NDArray[Any]:
        """The sums; waits for them where they are not there yet."""
        array: NDArray[Any] = self._round.settle()[self._device].numpy()[self._plane - self._round.first]
        return array


class Planes:
    """`Samples` of the last steps, each in a plane of one buffer.

    Args:
        slots: How many tensors are sampled in a step.
        most_rows: Rows of each slot.
        most_units: Units of each.
        count: Steps whose samples are reduced together.
        kept: Slots to which the next step looks back; for the first of a turn they are in plane 0, before the others.

    Attributes:
        values: [planes, slots, rows, units] on each device.
        place: The present plane.
    """

    def __init__(
        self,
        slots: int,
        most_rows: int = ROWS,
        most_units: int = UNITS,
        count: int = 1,
        kept: slice | None = None,
    ) -> None:
        self.values: dict[torch.device, Tensor] = {}
        self._kept = kept
        self._first = self.place = 0 if kept is None else 1
        self._shape = self._first + count, slots, most_rows, most_units
        self._all = [Samples(*self._shape[1:], room=partial(self._room, place)) for place in range(self._shape[0])]
        self._rounds: dict[Callable[..., Any], Round] = {}

    @property
    def present(self) -> Samples:
        """The samples of the present step."""
        return self._all[self.place]

    @property
    def past(self) -> Samples:
        """Those of the step before."""
        return self._all[self.place - 1]

    def filled(self, first: int, end: int) -> list[int]:
        """Slots that hold a sample in any of the planes from one to before another."""
        filled = np.any([samples.filled for samples in self._all[first:end]], axis=0)
        return [int(slot) for slot in np.flatnonzero(filled)]

    def rows(self, first: int, end: int) -> NDArray[np.int64]:
        """Most rows of each slot in those planes."""
        most: NDArray[np.int64] = np.max([samples.rows for samples in self._all[first:end]], axis=0)
        return most

    def advance(self) -> None:
        """Go on to the next plane; after the last one the first is written over."""
        if self.place < len(self._all) - 1:
            self.place += 1
            return
        for taken in self._rounds.values():
            taken.settle()
        if self._kept is not None:
            self._all[0].filled[self._kept] = self.present.filled[self._kept]
            for values in self.values.values():
                values[0, self._kept] = values[self.place, self._kept]
        self.place = self._first

    def take(
        self, reduce: Callable[[int, int], dict[torch.device, Tensor]], at_once: bool = False
    ) -> dict[torch.device, Deferred]:
        """What ``reduce`` will make of the present plane, on each device.

        Args:
            reduce: Gives the sums on each device, [planes, …], of the planes from one to before another.
            at_once: Do not wait for other planes: this one is written to again, or others wait for the sums.
        """
        taken = self._rounds.get(reduce)
        if taken is None or taken.settled:
            taken = self._rounds[reduce] = Round(self.place, reduce)
        taken.end = self.place + 1
        if at_once or self.place == len(self._all) - 1:
            taken.settle()
        return {device: Deferred(taken, self.place, device) for device in self.present.values}

    def clear(self) -> None:
        """Forget what the present plane holds."""
        self.present.clear()

    def _room(self, place: int, device: torch.device) -> Tensor:
        if device not in self.values:
            self.values[device] = torch.zeros(self._shape, dtype=torch.float32, device=device)
        return self.values[device][place]
