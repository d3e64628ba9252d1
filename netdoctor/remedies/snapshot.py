"""The whole state of a model and its optimizer, for treatments that do not keep their way back themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netdoctor.remedies.operation import Operation
from netdoctor.remedies.wording import brief, describe, number
from netdoctor.treatment import Change

STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
PLAIN = (bool, int, float, str, tuple, type(None))


class _Kept(Protocol):
    """One piece of the state."""

    def compare(self) -> list[Change] | None:
        """What is different now, in words where there are some; None where it is the same."""

    def restore(self) -> None:
        """Put it back, in place."""


class Snapshot:
    """Weights, buffers, modules, their attributes and hooks, param groups and optimizer state, as they are now."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        self._optimizer = optimizer
        self._kept: list[_Kept] = [*_modules(model), *_tensors(model)]
        if optimizer is not None:
            self._kept += _optimizer(optimizer)

    def restore(self) -> None:
        """Put everything back."""
        for kept in self._kept:
            kept.restore()

    def compare(self, operation: Operation) -> None:
        """Tell the operation what is different now, and how to put that back."""
        had = set() if self._optimizer is None else {kept.key for kept in self._kept if isinstance(kept, _KeptState)}
        for kept in self._kept:
            changes = kept.compare()
            if changes is not None:
                for change in changes:
                    operation.record(change, lambda: None)
                operation.record(None, kept.restore)
        lost = 0 if self._optimizer is None else sum(parameter not in self._optimizer.state for parameter in had)
        if lost:
            operation.notes.append(f"The optimizer's state (momentum, moments) was reset for {lost} parameters")


class _KeptTensor:
    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self.tensor = name, tensor
        self.values, self.trainable = tensor.detach().clone(), tensor.requires_grad

    def compare(self) -> list[Change] | None:
        found = []
        if self.tensor.requires_grad != self.trainable:
            found.append(Change(f"requires_grad of {self.name}", str(self.trainable), str(self.tensor.requires_grad)))
        if not self._alike:
            found.append(Change(f"format of {self.name}", str(self.values.dtype), str(self.tensor.dtype)))
        elif not torch.equal(self.tensor.detach(), self.values):
            found.append(Change(self.name, describe(self.values), describe(self.tensor)))
        return found or None

    @property
    def _alike(self) -> bool:
        a, b = self.tensor, self.values
        return (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)

    def restore(self) -> None:
        self.tensor.requires_grad_(self.trainable)
        if self._alike:
            with torch.no_grad():
                self.tensor.copy_(self.values)
        else:
            self.tensor.data = self.values.clone()


class _KeptContainer:
    """A dict, list or set that is changed in place: others hold it too (handles of hooks do)."""

    def __init__(self, name: str, container: Any, words: Any) -> None:
        self.name, self.container, self.words = name, container, words
        self.content = container.copy()

    def compare(self) -> list[Change] | None:
        now, before = self.container, self.content
        if isinstance(now, dict):
            keys = [*before, *(key for key in now if key not in before)]
            different = [
                key for key in keys if not _same(before.get(key), now.get(key)) or (key in before) != (key in now)
            ]
            if not different and list(now) == list(before):
                return None
            return [
                change for key in different if (change := self.words(self.name, key, before.get(key), now.get(key)))
            ]
        same = len(now) == len(before) and all(_same(a, b) for a, b in zip(before, now, strict=True))
        return None if same else list(filter(None, [self.words(self.name, "", before, now)]))

    def restore(self) -> None:
        self.container.clear()
        if isinstance(self.container, list):
            self.container.extend(self.content)
        else:
            self.container.update(self.content)


class _KeptState:
    """The optimizer's state of one parameter."""

    def __init__(self, states: Any, key: Any) -> None:
        self.states, self.key = states, key
        self.state = states[key]
        self.values = {name: v.clone() if isinstance(v, Tensor) else v for name, v in self.state.items()}

    def compare(self) -> list[Change] | None:
        now = self.states.get(self.key)
        if now is self.state and now.keys() == self.values.keys():
            pairs = [(self.values[name], value) for name, value in now.items()]
            if all(torch.equal(a, b) if isinstance(a, Tensor) else _same(a, b) for a, b in pairs):
                return None
        return []

    def restore(self) -> None:
        self.states[self.key] = self.state
        self.state.clear()
        self.state.update({n: v.clone() if isinstance(v, Tensor) else v for n, v in self.values.items()})


def _modules(model: nn.Module) -> Iterator[_Kept]:
    for name, module in model.named_modules():
        yield _KeptContainer(name, vars(module), _attribute)
        for attribute, value in vars(module).items():
            if isinstance(value, (dict, list, set)) and hasattr(value, "copy"):
                words = {"_modules": _module, "_parameters": _tensor, "_buffers": _tensor}.get(attribute)
                yield _KeptContainer(name, value, words or (_hook if attribute.endswith("_hooks") else _unnamed))


def _tensors(model: nn.Module) -> Iterator[_Kept]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield _KeptTensor(name, tensor)


def _optimizer(optimizer: Optimizer) -> Iterator[_Kept]:
    yield _KeptContainer("", vars(optimizer), _unnamed)
    yield _KeptContainer("param groups", optimizer.param_groups, _count)
    for index, group in enumerate(optimizer.param_groups):
        yield _KeptContainer(f"param group {index}", group, _option)
        yield _KeptContainer(f"parameters in param group {index}", group["params"], _count)
    yield _KeptContainer("", optimizer.state, _unnamed)
    for parameter in list(optimizer.state):
        yield _KeptState(optimizer.state, parameter)
    for attribute in STEP_HOOKS:
        yield _KeptContainer("the optimizer", getattr(optimizer, attribute), _hook)


def _same(before: Any, after: Any) -> bool:
    return before is after or (isinstance(before, PLAIN) and type(before) is type(after) and bool(before == after))


# What a changed entry of a container is in words, None for nothing worth saying.


def _attribute(owner: str, key: str, before: Any, after: Any) -> Change | None:
    plain = isinstance(before, PLAIN) and isinstance(after, PLAIN) and not key.startswith("_")
    return Change(_joined(owner, key), str(before), str(after)) if plain else None


def _module(owner: str, key: str, before: Any, after: Any) -> Change | None:
    return Change(_joined(owner, key), *("none" if each is None else brief(each) for each in (before, after)))


def _tensor(owner: str, key: str, before: Any, after: Any) -> Change | None:
    return Change(_joined(owner, key), *("none" if each is None else describe(each) for each in (before, after)))


def _hook(owner: str, key: str, before: Any, after: Any) -> Change | None:
    words = ("none" if each is None else getattr(each, "__name__", type(each).__name__) for each in (before, after))
    return Change(f"a hook of {owner or 'the model'}", *words)


def _option(owner: str, key: str, before: Any, after: Any) -> Change | None:
    return None if key == "params" else Change(f"{key} of {owner}", number(before), number(after))


def _count(owner: str, key: str, before: Any, after: Any) -> Change | None:
    return Change(owner, str(len(before)), str(len(after)))


def _unnamed(owner: str, key: str, before: Any, after: Any) -> Change | None:
    return None


def _joined(owner: str, key: str) -> str:
    return f"{owner}.{key}".lstrip(".")
