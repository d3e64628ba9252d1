"""Reads the losses that the user's own program computes.

Training losses are read where `backward` is called, validation losses where a loss function runs without gradients.

The only patches of `watch` are here: `torch.autograd.backward` (which `Tensor.backward` calls), torch's loss functions
(which the criterion modules call) and those that drop units, for they leave no trace where no gradients are computed.
They are installed with the first listener and restored with the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any, Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor, is_grad_enabled
from torch._C import _current_graph_task_id as graph_task
from torch.compiler import is_compiling
from torch.jit import _builtins

from netdoctor.probes.outside import passing

LOSS_FUNCTIONS = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
)
DROPPING = {  # functions that drop: place of the probability among the arguments, its name, its default, and the mode's
    "dropout": (1, "p", 0.5, True),
    "dropout1d": (1, "p", 0.5, True),
    "dropout2d": (1, "p", 0.5, True),
    "dropout3d": (1, "p", 0.5, True),
    "alpha_dropout": (1, "p", 0.5, False),
    "feature_alpha_dropout": (1, "p", 0.5, False),
    "scaled_dot_product_attention": (4, "dropout_p", 0.0, True),  # it has no mode
}


@dataclass(frozen=True)
class Evaluated:
    """One call of a loss function.

    Attributes:
        function: Its name.
        loss: What it gave.
        output: The prediction that it took.
        target: The target; None where it was given in another way than usual.
        options: Its keyword arguments.
    """

    function: str
    loss: Tensor
    output: Tensor
    target: Tensor | None
    options: dict[str, Any]


class Listener(Protocol):
    """What a monitor is told. None of these may raise."""

    def before_backward(self, loss: Tensor) -> None:
        """`backward` is about to run from a scalar."""

    def after_backward(self) -> None:
        """`backward` has run: the gradients are accumulated, reduced between replicas and not yet clipped."""

    def evaluated(self, batch: Evaluated) -> None:
        """A loss function was called without gradients."""

    def dropping(self, function: str, rate: float) -> None:
        """A function that drops units with this probability is called without gradients."""


class Overhearing(Protocol):
    """What is told of loss functions that run with gradients, too. May not raise."""

    def called(
        self, function: Callable[..., Tensor], input: Tensor, rest: Any, options: dict[str, Any], loss: Any
    ) -> None:
        """``function(input, *rest, **options)`` gave ``loss``."""


_listeners: list[Listener] = []
_overhearing: list[Overhearing] = []
_originals: list[tuple[Any, str, Callable[..., Any], Callable[..., Any]]] = []


def listen(listener: Listener) -> None:
    """Tell ``listener`` of every loss from now on."""
    if not _listeners:
        _patch(torch.autograd, "backward", _watched_backward)
        for name in LOSS_FUNCTIONS:
            _patch(functional, name, _watched_loss)
        for name in DROPPING:
            _patch(functional, name, _watched_dropout)
    _listeners.append(listener)


def unlisten(listener: Listener) -> None:
    """Tell it no more; the last one to leave restores what was patched."""
    if listener in _listeners:
        _listeners.remove(listener)
    if not _listeners:
        while _originals:
            owner, name, original, wrapper = _originals.pop()
            if getattr(owner, name) is wrapper:  # else somebody patched over it: our wrapper stays and passes on
                setattr(owner, name, original)
                _builtins._get_builtin_table().pop(id(wrapper), None)


def overhear(listener: Overhearing) -> None:
    """Tell it of calls with gradients too; they are noticed while anybody listens."""
    _overhearing.append(listener)


def overhear_no_more(listener: Overhearing) -> None:
    """Tell it no more."""
    if listener in _overhearing:
        _overhearing.remove(listener)


def _patch(owner: Any, name: str, watched: Callable[..., Callable[..., Any]]) -> None:
    original = getattr(owner, name)
    wrapper = functools.wraps(original)(watched(original))
    if isinstance(original, BuiltinFunctionType):  # torch.jit.script knows these by their id
        _builtins._register_builtin(wrapper, _builtins._find_builtin(original))
    else:
        wrapper.__prepare_scriptable__ = lambda: original  # type: ignore[attr-defined]  # it takes this one
    setattr(owner, name, wrapper)
    _originals.append((owner, name, original, wrapper))


def _watched_backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @passing
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if not _listeners or is_compiling() or graph_task() != -1:
            return original(tensors, *args, **kwargs)  # inside a backward pass: a checkpoint's recomputation
        for loss in tensors if isinstance(tensors, (list, tuple)) else (tensors,):
            if isinstance(loss, Tensor) and loss.numel() == 1:
                for listener in tuple(_listeners):
                    listener.before_backward(loss)
        result = original(tensors, *args, **kwargs)
        for listener in tuple(_listeners):
            listener.after_backward()
        return result

    return backward


def _watched_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    name = original.__name__

    @passing
    def loss_function(input: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(input, *args, **kwargs)
        if is_grad_enabled() or is_compiling() or not _listeners:
            if _overhearing:
                for each in tuple(_overhearing):
                    each.called(original, input, args, kwargs, loss)
            return loss
        if isinstance(loss, Tensor) and isinstance(input, Tensor) and input.ndim:
            target = args[0] if args else kwargs.get("target")
            batch = Evaluated(name, loss, input, target if isinstance(target, Tensor) else None, kwargs)
            for listener in tuple(_listeners):
                listener.evaluated(batch)
        return loss

    return loss_function


def _watched_dropout(original: Callable[..., Any]) -> Callable[..., Any]:
    name = original.__name__
    place, key, usual, always = DROPPING[name]

    @passing
    def dropout_function(*args: Any, **kwargs: Any) -> Any:
        if is_grad_enabled() or is_compiling() or not _listeners:
            return original(*args, **kwargs)
        rate = args[place] if len(args) > place else kwargs.get(key, usual)
        active = key == "dropout_p" or (args[2] if len(args) > 2 else kwargs.get("training", always))
        if active and isinstance(rate, float) and rate > 0:
            for listener in tuple(_listeners):
                listener.dropping(name, rate)
        return original(*args, **kwargs)

    return dropout_function
