"""Layers inside compiled graphs: what `torch.compile` makes of the hooks.

A hook that Dynamo traces may only call operators. So it calls one that stands for it, and that the compiler does not
look into: when the graph runs, the operator samples as the hook does otherwise. The compiler puts a guard on the flag
that says whether a step is sampled and makes two graphs, with the operators and without: steps that are not sampled
run the graph of an unwatched model. Which layer an operator stands for is in a tensor, its mark, so that blocks with
the same code go on sharing their graphs. The operators write to fixed addresses; CUDA graphs are split around them.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Sized
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from netdoctor.probes.sampling import first_tensor

if TYPE_CHECKING:
    from netdoctor.probes.activations import ActivationProbe

# Before, a tensor hook in a compiled graph made the compiler give up on the whole model (seen with 2.6).
GRADIENTS = torch.__version__ >= "2.13"
ROOT = -1  # in place of a layer's slot

_looked: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # entries when it was looked for
_probes: weakref.WeakValueDictionary[int, ActivationProbe] = weakref.WeakValueDictionary()
_tags = tuple(tag for tag in (getattr(torch.Tag, "cudagraph_unsafe", None),) if tag is not None)


@torch.library.custom_op("netdoctor::sample", mutates_args=("mark",), tags=_tags)
def _sample(mark: Tensor, output: Tensor | None, given: Tensor | None) -> None:
    """One layer has run; the mark is said to be changed so that no compiler leaves the call out."""
    number, slot = mark.tolist()
    probe = _probes.get(number)
    if probe is not None:
        probe.ran_compiled(slot, output, given)


@torch.library.custom_op("netdoctor::sample_gradient", mutates_args=("mark",), tags=_tags)
def _sample_gradient(mark: Tensor, gradient: Tensor) -> None:
    number, slot = mark.tolist()
    probe = _probes.get(number)
    if probe is not None:
        probe.backward(slot, gradient, probe.axis(slot, gradient), at_once=True)  # its memory may be used again


@_sample.register_fake
def _(mark: Tensor, output: Tensor | None, given: Tensor | None) -> None:
    return None


@_sample_gradient.register_fake
def _(mark: Tensor, gradient: Tensor) -> None:
    return None


class CompiledGradientHook:
    """Samples the gradient that arrives at one output, in the graph of the backward pass."""

    def __init__(self, mark: Tensor) -> None:
        self.mark = mark

    def __call__(self, gradient: Tensor) -> None:
        torch.ops.netdoctor.sample_gradient(self.mark.data, gradient.detach())


class Marked:
    """What a hook needs in a compiled graph.

    Args:
        probe: Whose hook it is.
        slot: Of its layer, or `ROOT`.
        weighted: Whether the gradient at the layer's output is asked for.
    """

    def __init__(self, probe: ActivationProbe, slot: int, weighted: bool = False) -> None:
        _probes[id(probe)] = probe
        self.mark = torch.tensor((id(probe), slot), dtype=torch.int64, device="cpu")
        self.gradient = CompiledGradientHook(self.mark) if weighted and GRADIENTS else None


def trace(marked: Marked, probe: ActivationProbe, args: tuple[Any, ...], output: Any) -> None:
    """What Dynamo traces in place of a hook: the flag is read last, for every graph that reads it is made twice."""
    if torch.compiler.is_exporting() or not torch.is_grad_enabled() or not probe.on:
        return
    produced = first_tensor(output)
    if produced is None:
        return
    given = args[0] if args and isinstance(args[0], Tensor) else first_tensor(args)
    torch.ops.netdoctor.sample(marked.mark.data, produced.detach(), None if given is None else given.detach())
    if marked.gradient is not None and produced.requires_grad:
        produced.register_hook(marked.gradient)


def trace_pass(marked: Marked, probe: ActivationProbe) -> None:
    """The same for the hook of the root."""
    if not torch.compiler.is_exporting() and torch.is_grad_enabled() and probe.on:
        torch.ops.netdoctor.sample(marked.mark.data, None, None)


def forget(root: nn.Module) -> None:
    """Have what was compiled of a model compiled again: the compiler does not notice hooks that come later."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    entries = getattr(dynamo, "_debug_get_cache_entry_list", None)
    if entries is None:
        return
    forwards = {getattr(type(module), "forward", None) for module in root.modules()}
    codes = {getattr(forward, "__code__", None) for forward in forwards}
    for code in codes | {_inlining(root, entries)}:
        if code is not None and entries(code):
            dynamo.reset_code(code)


def _inlining(root: nn.Module, entries: Callable[[CodeType], Sized]) -> CodeType | None:
    """The frame that stands around a compiled module of torch's own, if this model is compiled that way."""
    outer: Any = getattr(sys.modules.get("torch._dynamo.external_utils"), "wrap_inline", None)
    constants = () if outer is None else outer.__code__.co_consts
    inner = next((constant for constant in constants if isinstance(constant, CodeType)), None)
    count = len(entries(inner)) if inner is not None else 0
    if not count or _looked.get(root) == count:  # nothing was compiled since; looking takes a while
        return None
    _looked[root] = count
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in root.modules())
    wrapped = any(isinstance(r, dict) and r.get("_orig_mod") is root for r in gc.get_referrers(root))
    return inner if compiled or wrapped else None
