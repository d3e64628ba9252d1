"""Calls of layers, and gradients at their outputs, that wait until a few of them can be sampled together.

The work of a layer pushes the code of the hooks out of the processor's caches: a hook that follows another one takes a
fraction of the time of one that follows a convolution. Other devices work on while the host goes through the hooks.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

from torch import Tensor, nn

HELD = 16 << 20  # bytes that are kept alive a little longer: 8 outputs of a small ResNet; 4 to 32 MB cost the same


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

    A layer's may not whose output is larger than 4 MB, or written to after the call, as by an in-place ReLU.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._gradients: list[Gradient] = []
        self._sizes: dict[int, int] = {}  # bytes of the outputs of layers whose calls may wait; 0 they may not
        self._held = 0
        self._watched: list[tuple[int, weakref.ref[Tensor], int, int]] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing to release and nothing to learn."""
        return not (self._calls or self._gradients or self._watched)

    @property
    def full(self) -> bool:
        """Whether so much waits that it should be released."""
        return self._held >= HELD

    def take(self, slot: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> bool:
        """Keep a call if it may wait; whether it does."""
        size = self._sizes.get(slot, 0)
        if not size or type(output) is not Tensor or not output.is_cpu:
            return False
        self._held += size
        self._calls.append(Call(slot, module, args, output, _versions(args, output)))
        return True

    def take_gradient(self, slot: int, gradient: Tensor, axis: int) -> bool:
        """The same for the gradient at a layer's output."""
        size = self._sizes.get(slot, 0)
        if not size or type(gradient) is not Tensor or not gradient.is_cpu:
            return False
        self._held += size
        self._gradients.append(Gradient(slot, gradient, axis, gradient._version))
        return True

    def release(self) -> tuple[list[Call], list[Gradient]]:
        """What waited; of what should not have, for it was written to, nothing is left to sample."""
        calls, gradients = self._calls, self._gradients
        self._calls, self._gradients, self._held = [], [], 0
        touched = {call.slot for call in calls if call.versions != _versions(call.args, call.output)}
        self._sizes |= dict.fromkeys(touched, 0)
        return (
            [call for call in calls if call.slot not in touched],
            [each for each in gradients if each.tensor._version == each.version],
        )

    def forget(self) -> None:
        """Let go of all that waits."""
        self._calls, self._gradients, self._held = [], [], 0
        self._watched.clear()

    def watch(self, slot: int, output: Tensor) -> None:
        """Find out, until `learn`, whether the output of a layer that did not wait is written to."""
        if slot not in self._sizes:
            self._watched.append((slot, weakref.ref(output), output._version, output.nbytes))

    def learn(self) -> None:
        """Which layers' calls may wait, by the outputs of a pass that has ended."""
        for slot, reference, version, size in self._watched:
            output = reference()
            fit = size <= HELD // 8 and (output is None or output._version == version)
            self._sizes[slot] = min(self._sizes.get(slot, size), size if fit else 0)
        self._watched.clear()


def _versions(args: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
    given = args[0] if args else None
    if isinstance(given, Tensor) and not given.is_inference():  # those count no versions
        return output._version, given._version
    return output._version, 0
