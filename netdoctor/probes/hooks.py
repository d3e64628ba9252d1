"""Forward hooks that sample activations, and tensor hooks that sample their gradients.

A hook costs one flag test while nothing is sampled. Full backward hooks are not used: they fail on in-place operations
and keep torch.compile from working.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from netdoctor.probes import compiled
from netdoctor.probes.blocks import Block
from netdoctor.probes.outside import uncompiled

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

    def __init__(self, probe: ActivationProbe | None, slot: int, marked: compiled.Marked | None = None) -> None:
        self.probe = probe
        self.slot = slot
        self.marked = marked

    @uncompiled
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        probe = self.probe
        if torch.compiler.is_dynamo_compiling():
            if probe is not None and self.marked is not None:
                compiled.trace(self.marked, probe, args, output)
        elif probe is not None and probe.on:
            probe.forward(self.slot, module, args, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardHook:
        return ForwardHook(None, self.slot)

    def __reduce__(self) -> tuple[Any, ...]:
        return ForwardHook, (None, self.slot)


class PassHook(_Hook):
    """Counts the forward passes of the root and remembers whether the last one had gradients."""

    def __init__(self, probe: ActivationProbe | None, marked: compiled.Marked | None = None) -> None:
        self.probe = probe
        self.marked = marked

    @uncompiled
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        probe = self.probe
        if torch.compiler.is_dynamo_compiling():
            if probe is not None and self.marked is not None:
                compiled.trace_pass(self.marked, probe)
        elif probe is not None and "_is_replica" not in module.__dict__:  # DataParallel's, on threads of their own
            probe.passed(torch.is_grad_enabled(), args, kwargs)
            if probe.on:
                probe.answered(output)

    def __deepcopy__(self, memo: dict[int, Any]) -> PassHook:
        return PassHook(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return PassHook, (None,)


class GradientHook:
    """Samples the gradient that arrives at one output."""

    def __init__(self, probe: ActivationProbe, slot: int, axis: int, block: Block | None = None) -> None:
        self.probe = probe
        self.slot = slot
        self.axis = axis
        self.block = block

    @uncompiled
    def __call__(self, gradient: Tensor) -> None:
        self.probe.backward(self.slot, gradient, self.axis, self.block)
