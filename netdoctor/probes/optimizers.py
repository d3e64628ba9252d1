"""Optimizer steps: which parameters they hold, the gradients they use and the updates they make.

torch's global step hooks find the optimizer at its first step, so none has to be passed. Steps that a gradient scaler
leaves out show in its own `step` alone: it is patched with the first listener and restored with the last.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from netdoctor.facts import Group
from netdoctor.probes.outside import uncompiled
from netdoctor.probes.transfer import Transfer


class Listener(Protocol):
    """What a monitor is told. None of these may raise."""

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An optimizer begins its step; new ``(args, kwargs)`` replace the old ones, None keeps them."""

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer has made its step."""

    def step_skipped(self, optimizer: Optimizer) -> None:
        """A gradient scaler was asked for an optimizer's step and left it out."""


_listeners: list[Listener] = []
_handles: list[RemovableHandle] = []
_scaler_step: tuple[Callable[..., Any], Callable[..., Any]] | None = None  # the original, and what stands in its place
_steps = 0  # that any optimizer has begun


def listen(listener: Listener) -> None:
    """Tell ``listener`` of every optimizer step from now on."""
    global _scaler_step
    if not _listeners:
        _handles.append(register_optimizer_step_pre_hook(_before_step))
        _handles.append(register_optimizer_step_post_hook(_after_step))
        _scaler_step = GradScaler.step, _watched(GradScaler.step)
        GradScaler.step = _scaler_step[1]  # type: ignore[method-assign]
    _listeners.append(listener)


def unlisten(listener: Listener) -> None:
    """Tell it no more; the last one to leave removes the hooks."""
    global _scaler_step
    if listener in _listeners:
        _listeners.remove(listener)
    if not _listeners:
        while _handles:
            _handles.pop().remove()
        if _scaler_step is not None and GradScaler.step is _scaler_step[1]:  # else somebody patched over it
            GradScaler.step = _scaler_step[0]  # type: ignore[method-assign]
        _scaler_step = None


def _watched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        before = _steps
        result = original(scaler, optimizer, *args, **kwargs)
        if _steps == before and isinstance(optimizer, Optimizer):
            for listener in tuple(_listeners):
                listener.step_skipped(optimizer)
        return result

    return step


@uncompiled
def _before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    global _steps
    _steps += 1
    changed = None
    told = tuple(_listeners)
    for listener in told:
        changed = listener.before_step(optimizer, *(changed or (args, kwargs))) or changed
    for listener in tuple(_listeners):
        if listener not in told:  # one may bring in another, which begins with this very step
            changed = listener.before_step(optimizer, *(changed or (args, kwargs))) or changed
    return changed


@uncompiled
def _after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for listener in tuple(_listeners):
        listener.after_step(optimizer)


def closure_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
    """The closure among the arguments of `Optimizer.step`."""
    closure = kwargs.get("closure") if kwargs else None
    if closure is None and len(args) > 1:
        closure = args[1]
    return closure if callable(closure) else None


def wrap_closure(args: tuple[Any, ...], kwargs: dict[str, Any], then: Callable[[], None]) -> Any:
    """Arguments of `Optimizer.step` whose closure calls ``then`` after each run; None where there is no closure."""
    closure = closure_of(args, kwargs)
    if closure is None:
        return None

    def watched() -> Any:
        loss = closure()
        then()
        return loss

    if "closure" in kwargs:
        return args, {**kwargs, "closure": watched}
    return (args[0], watched, *args[2:]), kwargs


@dataclass(eq=False)
class Holding:
    """An optimizer that was met.

    Attributes:
        optimizer: The optimizer.
        names: Group of each of the model's parameters that it holds; empty for one of another model.
        parameters: These parameters, those with the most dimensions first.
        groups: Param groups looked at so far.
        step: The latest step of the model in which it took part; set by whoever counts them.
    """

    optimizer: weakref.ref[Optimizer]
    names: dict[str, int] = field(default_factory=dict)
    parameters: list[nn.Parameter] = field(default_factory=list)
    groups: int = 0
    step: int = 0


class Holdings:
    """Which optimizers hold parameters of the model, found by the identity of the parameters.

    Attributes:
        groups: Param groups that hold some, in the order in which they were met.
        elsewhere: Optimizers met that hold none.
        held: Group of each parameter that any of them holds.
    """

    def __init__(self) -> None:
        self._start = 0  # steps of a run that this one continues
        self.groups: list[Group] = []
        self.elsewhere = 0
        self.held: dict[str, int] = {}
        self._sources: list[tuple[weakref.ref[Optimizer], int]] = []  # where each group is read
        self._known: dict[int, Holding] = {}

    def start_after(self, step: int) -> None:
        """The model has made ``step`` steps in the run that this one continues."""
        self._start = step
        for known in self._known.values():
            known.step = step

    def strange(self, optimizer: Optimizer, names: Mapping[int, str]) -> bool:
        """Whether an optimizer, met for the first time or with a new group, holds what is no parameter of the model."""
        known = self._known.get(id(optimizer))
        if known is not None and known.optimizer() is optimizer and known.groups == len(optimizer.param_groups):
            return False
        return any(id(parameter) not in names for group in optimizer.param_groups for parameter in group["params"])

    def of(self, optimizer: Optimizer, names: Mapping[int, str]) -> Holding:
        """What ``optimizer`` holds.

        Args:
            optimizer: The optimizer that steps.
            names: Name of each of the model's parameters by ``id``.
        """
        known = self._known.get(id(optimizer))
        if known is None or known.optimizer() is not optimizer:  # new, perhaps where another one was
            known = self._known[id(optimizer)] = Holding(weakref.ref(optimizer), step=self._start)
        elif known.groups == len(optimizer.param_groups):
            return known
        for index, group in enumerate(optimizer.param_groups[known.groups :], start=known.groups):
            mine = [parameter for parameter in group["params"] if id(parameter) in names]
            if mine:
                known.names.update({names[id(parameter)]: len(self.groups) for parameter in mine})
                known.parameters = sorted((*known.parameters, *mine), key=lambda parameter: -parameter.ndim)
                self.held.update(known.names)
                self.groups.append(describe_group(optimizer, index))
                self._sources.append((weakref.ref(optimizer), index))
        self.elsewhere += not known.names
        known.groups = len(optimizer.param_groups)
        return known

    def parameters(self) -> dict[int, list[nn.Parameter]]:
        """The model's parameters that each optimizer holds which has made a step, by its ``id``."""
        return {identity: known.parameters for identity, known in self._known.items() if known.names and known.step}

    def count_loose(self, parameters: Iterable[weakref.ref[nn.Parameter]]) -> int:
        """How many of ``parameters`` no optimizer met so far holds."""
        met = [optimizer for known in self._known.values() if (optimizer := known.optimizer()) is not None]
        held = {id(parameter) for optimizer in met for group in optimizer.param_groups for parameter in group["params"]}
        return sum((parameter := each()) is not None and id(parameter) not in held for each in parameters)

    def at_work(self, since: int) -> list[Holding]:
        """Those that hold parameters, still exist, and took part in a step after ``since``."""
        return [k for k in self._known.values() if k.names and k.step > since and k.optimizer() is not None]

    def learning_rates(self) -> list[float | Transfer]:
        """The learning rate now of each group in ``groups``; NaN for an optimizer that is gone."""
        rates: list[float | Transfer] = []
        for reference, index in self._sources:
            optimizer = reference()
            rate = None if optimizer is None else optimizer.param_groups[index].get("lr")
            if isinstance(rate, Tensor) and rate.device.type != "cpu":
                rates.append(Transfer(rate.detach().clone()))
            else:
                rates.append(_number(rate))
        return rates


def describe_group(optimizer: Optimizer, index: int) -> Group:
    """Settings of a param group as they are now."""
    group = optimizer.param_groups[index]
    momentum = group.get("momentum", (group.get("betas") or (0.0,))[0])
    return Group(
        type(optimizer).__name__,
        index,
        _number(group.get("lr")),
        _number(group.get("weight_decay", 0.0)),
        _number(momentum),
    )


def _number(value: Any) -> float:
    """NaN where an optimizer has no such setting or finds it by itself (Adafactor's learning rate)."""
    return float("nan") if value is None else float(value)
