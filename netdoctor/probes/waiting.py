"""Calls of layers, and gradients at their outputs, that wait until a few of them can be sampled together.

The work of a layer pushes the code of the hooks out of the processor's caches: a hook that follows another one takes a
fraction of the time of one that follows a convolution. Other devices work on while the host goes through the hooks.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

from torch import Tensor, nn

MOST = 8  # that wait: a GPT's sampled step costs 8.8 % with 8, 8.5 with 16, 9.8 with none (2 cores of an EPYC)
LARGE = 4 << 20  # bytes of an output that does not wait: no more than 32 MB are kept alive a little longer


class Call(NamedTuple):
    """One call of a layer; a write to a tensor raises its version."""

    slot: int
    module: nn.Module
    args: tuple[Any, ...]
    output: Tensor
    versions: tuple[int, int]


class Gradient(NamedTuple):
    """What has arrived at the output of a layer, and its dimension over units."""

    slot: int
    tensor: Tensor
    axis: int
    version: int


class Waiting:
    """What waits; which layers' calls may is learned from the first ones.

    A layer's may not whose output is large, or written to after the call, as by an in-place ReLU.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._gradients: list[Gradient] = []
        self._may: dict[int, bool] = {}
        self._watched: list[tuple[int, weakref.ref[Tensor], int]] = []

    def __len__(self) -> int:
        return len(self._calls) + len(self._gradients)

    def take(self, slot: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> bool:
        """Keep a call if it may wait; whether it does."""
        if type(output) is not Tensor or not self._may.get(slot, False) or not output.is_cpu:
            return False
        self._calls.append(Call(slot, module, args, output, _versions(args, output)))
        return True

    def take_gradient(self, slot: int, gradient: Tensor, axis: int) -> bool:
        """The same for the gradient at a layer's output."""
        if type(gradient) is not Tensor or not self._may.get(slot, False) or not gradient.is_cpu:
            return False
        self._gradients.append(Gradient(slot, gradient, axis, gradient._version))
        return True

    @property
    def full(self) -> bool:
        return len(self) >= MOST

    def release(self) -> list[Call]:
        """The calls that waited; of those that should not have nothing is left to sample."""
        calls, self._calls = self._calls, []
        untouched = []
        for call in calls:
            if call.versions == _versions(call.args, call.output):
                untouched.append(call)
            else:
                self._may[call.slot] = False
        return untouched

    def release_gradients(self) -> list[Gradient]:
        """The gradients that waited and are as they were."""
        gradients, self._gradients = self._gradients, []
        return [each for each in gradients if each.tensor._version == each.version]

    def forget(self) -> None:
        """Let go of all that waits."""
        self._calls, self._gradients = [], []
        self._watched.clear()

    def watch(self, slot: int, output: Tensor) -> None:
        """Find out until the pass ends whether the output of a layer that did not wait is written to."""
        if slot not in self._may:
            if output.nbytes > LARGE:
                self._may[slot] = False
            else:
                self._watched.append((slot, weakref.ref(output), output._version))

    def end_pass(self) -> None:
        """Learn from the outputs of a pass."""
        for slot, reference, version in self._watched:
            output = reference()
            self._may[slot] = self._may.get(slot, True) and (output is None or output._version == version)
        self._watched.clear()


def _versions(args: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
    given = args[0] if args else None
    return output._version, given._version if isinstance(given, Tensor) else 0
