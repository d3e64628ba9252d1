"""Changes a model and its optimizer, and keeps the way back for each change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netdoctor.remedies.wording import brief, describe, number
from netdoctor.treatment import Change, RemedyError


class Operation:
    """One remedy being carried out.

    Attributes:
        model: The model, changed in place.
        optimizer: Its optimizer, None where it was not given.
        loss_fn: The criterion, None where it was not given.
        changes: What was changed so far.
        notes: What else to say.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None, loss_fn: Any = None) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.changes: list[Change] = []
        self.notes: list[str] = []
        self._ways_back: list[Callable[[], object]] = []

    def undo(self) -> None:
        """Take every change back, the last one first."""
        while self._ways_back:
            self._ways_back.pop()()

    def record(self, change: Change | None, back: Callable[[], object]) -> None:
        """Note a change that was just made, and what takes it back."""
        if change is not None:
            self.changes.append(change)
        self._ways_back.append(back)

    # What the operation is done on.

    def needs_optimizer(self, why: str) -> Optimizer:
        """The optimizer.

        Raises:
            RemedyError: It was not given; ``why`` says what for ("changes the learning rate").
        """
        if self.optimizer is None:
            raise RemedyError(f"this remedy {why}: pass the optimizer, remedy.apply(model, optimizer)")
        return self.optimizer

    def module(self, name: str) -> nn.Module:
        """The module of that dotted name.

        Raises:
            RemedyError: The model has none.
        """
        try:
            return self.model.get_submodule(name)
        except AttributeError as error:
            raise RemedyError(f"{type(self.model).__name__} has no module {name!r}: is it another model?") from error

    def parameter(self, layer: str, leaf: str = "weight") -> nn.Parameter:
        """A layer's own parameter.

        Raises:
            RemedyError: It has none of that name, as where it is computed from others (weight norm).
        """
        found = self.module(layer)._parameters.get(leaf)
        if found is None:
            raise RemedyError(f"{layer or 'the model'} has no parameter {leaf!r} of its own")
        return found

    def needs_finite_weights(self) -> None:
        """Refuse to go on with weights that are lost.

        Raises:
            RemedyError: A parameter holds NaN or Inf.
        """
        for name, parameter in self.model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise RemedyError(
                    f"{name} holds NaN or Inf, which no step repairs: build model and optimizer anew and apply it there"
                )

    # What can be changed.

    def write(self, name: str, parameter: Tensor, values: Tensor) -> None:
        """Overwrite a parameter or buffer in place, and make the optimizer forget the old one."""
        before = parameter.detach().clone()
        self.forget(parameter)
        with torch.no_grad():
            parameter.copy_(values)

        def back() -> None:
            with torch.no_grad():
                parameter.copy_(before)

        self.record(Change(name, describe(before), describe(parameter)), back)

    def convert(self, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
        """Keep a parameter or buffer, and the optimizer's state of it, in another format; its gradient is dropped."""
        before = tensor.data
        state = {} if self.optimizer is None else self.optimizer.state.get(tensor, {})
        moments = {key: value for key, value in state.items() if _holds(value, before.dtype)}
        tensor.grad, tensor.data = None, before.to(dtype)
        state.update({key: value.to(dtype) for key, value in moments.items()})

        def back() -> None:
            tensor.grad, tensor.data = None, before
            since = {} if self.optimizer is None else self.optimizer.state.get(tensor, {})
            since.update({k: v.to(before.dtype) for k, v in since.items() if _holds(v, dtype) and v.ndim})
            since.update(moments)

        self.record(Change(f"format of {name}", str(before.dtype), str(dtype)), back)

    def forget(self, parameter: Tensor) -> None:
        """Drop the optimizer's state of a parameter: moments of old weights would undo new ones."""
        if self.optimizer is None:
            return
        state = self.optimizer.state
        kept = state.pop(parameter, None)

        def back() -> None:
            if kept is None:
                state.pop(parameter, None)
            else:
                state[parameter] = kept

        self.record(None, back)
        if kept:
            self._note_reset()

    def _note_reset(self) -> None:
        start = "The optimizer's state (momentum, moments) was reset for "
        counts = [int(note.removeprefix(start).split()[0]) for note in self.notes if note.startswith(start)]
        self.notes = [note for note in self.notes if not note.startswith(start)]
        self.notes.append(f"{start}{sum(counts) + 1} parameters")

    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` in the place of the one of that name.

        Raises:
            RemedyError: That is the model itself.
        """
        before = self.module(name)
        if not name:
            raise RemedyError("the model itself cannot be replaced by another module")
        module.train(before.training)
        self.model.set_submodule(name, module)
        self.record(Change(name, brief(before), brief(module)), lambda: self.model.set_submodule(name, before))

    def set(self, what: str, owner: object, attribute: str, value: object) -> None:
        """Set an attribute that is a plain value."""
        before = getattr(owner, attribute)
        if before != value:
            setattr(owner, attribute, value)
            self.record(Change(what, str(before), str(value)), lambda: setattr(owner, attribute, before))

    def set_option(self, index: int, option: str, value: Any) -> None:
        """Set an option of a param group ("lr"); one that is a tensor keeps its identity."""
        group = self.needs_optimizer("changes the optimizer").param_groups[index]
        before = group[option]
        change = Change(f"{option} of param group {index}", number(before), number(value))
        if isinstance(before, Tensor):
            kept = before.clone()
            before.copy_(value) if isinstance(value, Tensor) else before.fill_(value)
            self.record(change, lambda: before.copy_(kept))
        else:
            group[option] = value
            self.record(change, lambda: group.update({option: before}))

    def hold(self, named: Iterable[tuple[str, nn.Parameter]], like: nn.Parameter | None = None) -> int:
        """Let the optimizer hold further parameters, in the group of ``like`` or else the first; returns how many.

        They join an existing group: schedulers know the groups that were there when they were made.
        """
        optimizer = self.needs_optimizer("gives the optimizer parameters")
        groups = optimizer.param_groups
        held = {id(parameter) for group in groups for parameter in group["params"]}
        fresh = [(name, parameter) for name, parameter in named if id(parameter) not in held]
        index = next((i for i, g in enumerate(groups) if any(p is like for p in g["params"])), 0)
        group = groups[index]
        for option, added in (("params", [p for _, p in fresh]), ("param_names", [n for n, _ in fresh])):
            if fresh and option in group:
                before = group[option]
                group[option] = [*before, *added]
                self.record(None, _setter(group, option, before))
        if fresh:
            count = len(group["params"])
            what = f"parameters in param group {index}"
            self.record(Change(what, str(count - len(fresh)), str(count)), lambda: self._drop(fresh))
        return len(fresh)

    def exchange(self, fresh: Mapping[nn.Parameter, nn.Parameter]) -> None:
        """Let the optimizer hold new parameters in the place of old ones, and forget the state of these."""
        for group in () if self.optimizer is None else self.optimizer.param_groups:
            before = group["params"]
            group["params"] = [fresh.get(parameter, parameter) for parameter in before]
            self.record(None, _setter(group, "params", before))
        for old, new in fresh.items():
            self.forget(old)
            self.forget(new)  # what it gathers until then goes with `undo`

    def _drop(self, named: list[tuple[str, nn.Parameter]]) -> None:
        for _, parameter in named:
            self.needs_optimizer("held parameters").state.pop(parameter, None)

    def attach(self, what: str, handle: Any, described: str) -> None:
        """Note a hook that was just registered; ``handle`` takes it off."""
        self.record(Change(what, "none", described), handle.remove)


def _holds(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype


def _setter(group: dict[str, Any], option: str, value: Any) -> Callable[[], None]:
    return lambda: group.update({option: value})
