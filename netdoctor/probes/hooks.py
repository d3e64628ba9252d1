"""Forward hooks that sample activations, and tensor hooks that sample their gradients.

A hook stays on its module until `close` and costs one flag test while nothing is sampled. Full backward hooks are not
used: they fail on in-place operations and keep torch.compile from working.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from netdoctor.probes.activations import ActivationProbe


class _Hook:
    """What `torch.jit.script` asks of a hook before it refuses it."""

    @property
    def __name__(self) -> str:
        raise AttributeError(
            "torch.jit.script takes no module that netdoctor watches: script it before netdoctor.watch(), or call "
            "monitor.close() first"
        )


class ForwardHook(_Hook):
    """Samples one module's output; copies and pickles of the module carry a stub that does nothing."""

    def __init__(self, probe: ActivationProbe | None, slot: int) -> None:
        self.probe = probe
        self.slot = slot

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_dynamo_compiling():  # first: a guard on what follows would compile the model again
            return
        probe = self.probe
        if probe is None or not probe.on:
            return
        probe.forward(self.slot, module, args, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardHook:
        return ForwardHook(None, self.slot)

    def __reduce__(self) -> tuple[Any, ...]:
        return ForwardHook, (None, self.slot)


class PassHook(_Hook):
    """Counts the forward passes of the root and remembers whether the last one had gradients."""

    def __init__(self, probe: ActivationProbe | None) -> None:
        self.probe = probe

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        probe = self.probe
        if probe is not None and "_is_replica" not in module.__dict__:  # DataParallel's, on threads of their own
            probe.passes += 1
            probe.thread = get_ident()
            probe.last_pass_with_gradients = torch.is_grad_enabled()

    def __deepcopy__(self, memo: dict[int, Any]) -> PassHook:
        return PassHook(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return PassHook, (None,)


class GradientHook:
    """Samples the gradient that arrives at one output."""

    def __init__(self, probe: ActivationProbe, slot: int, axis: int) -> None:
        self.probe = probe
        self.slot = slot
        self.axis = axis

    def __call__(self, gradient: Tensor) -> None:
        self.probe.backward(self.slot, gradient, self.axis)
