"""Which parameters the optimizer holds, and which ask for gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from torch import nn

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.wording import names_code
from netdoctor.treatment import Change, RemedyError


def add_missing_parameters(names: Sequence[str] = ()) -> Remedy:
    """Let the optimizer hold the trainable parameters ``names``, all that it lacks where there are none given."""
    wanted = f"if name in {names_code(names)}" if names else "if p.requires_grad and id(p) not in held"
    return Remedy(
        action="Give them to the optimizer, whose state stays as it is",
        code="held = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
        f"optimizer.add_param_group({{'params': [p for name, p in model.named_parameters() {wanted}]}})",
        source="PyTorch documentation, torch.optim.Optimizer.add_param_group",
        effect="they learn like the others",
        treatment=Procedure(functools.partial(_add, names=frozenset(names))),
    )


def _add(operation: Operation, names: frozenset[str]) -> None:
    parameters = {n: p for n, p in operation.model.named_parameters() if p.requires_grad and (not names or n in names)}
    if missing := names - parameters.keys():
        raise RemedyError(f"the model has no trainable parameter {', '.join(sorted(missing))}")
    if not operation.hold(parameters.items()):
        raise RemedyError("the optimizer holds all of them already")


def take_over() -> Remedy:
    """Let the optimizer hold this model's parameters in place of those of another one, with the same options."""
    return Remedy(
        "Build the optimizer from the model that is trained, after it was copied, converted or wrapped",
        "optimizer = type(optimizer)(model.parameters(), lr=optimizer.param_groups[0]['lr'])",
        "TrainCheck, case accelerate-2665",
        "the steps change this model",
        treatment=Procedure(_take_over),
    )


def _take_over(operation: Operation) -> None:
    optimizer = operation.needs_optimizer("gives the optimizer other parameters")
    groups, state = list(optimizer.param_groups), dict(optimizer.state)
    options = {key: value for key, value in groups[0].items() if key not in ("params", "param_names")}
    fresh = {**options, "params": list(operation.model.parameters())}
    if "param_names" in groups[0]:
        fresh["param_names"] = [name for name, _ in operation.model.named_parameters()]

    def back() -> None:
        optimizer.param_groups[:] = groups
        optimizer.state.clear()
        optimizer.state.update(state)

    optimizer.param_groups[:] = [fresh]
    optimizer.state.clear()
    counts = (sum(len(group["params"]) for group in several) for several in (groups, [fresh]))
    change = Change(
        "parameters that the optimizer holds",
        *(f"{n} of {m}" for n, m in zip(counts, ("another model", "this one"), strict=True)),
    )
    operation.record(change, back)
    if state:
        operation.notes.append(f"The optimizer's state (momentum, moments) was reset for {len(state)} parameters")


def freeze_layers(layers: Sequence[str]) -> Remedy:
    """Ask for no gradients of ``layers`` any more; by hand, for only who wrote the program knows what was meant."""
    return Remedy(
        "Or freeze them, if that is meant",
        f"for name in {names_code(layers)}:\n    model.get_submodule(name).requires_grad_(False)",
        effect="nothing changes but that it is said",
    )


def unfreeze(layers: Sequence[str]) -> Procedure:
    """Ask for gradients of ``layers`` and let the optimizer hold them."""

    def perform(operation: Operation) -> None:
        for name in layers:
            for leaf, parameter in operation.module(name).named_parameters():
                operation.set(f"requires_grad of {name}.{leaf}", parameter, "requires_grad", True)
        _hold(operation)

    return Procedure(perform)


def register_lists(operation: Operation) -> None:
    """Turn plain lists and dicts of modules into registered ones, and give their parameters to the optimizer."""
    for module in list(operation.model.modules()):
        for name, value in list(vars(module).items()):
            several = list(value.values()) if isinstance(value, dict) else value
            if name.startswith("_") or not isinstance(several, (list, tuple)) or not several:
                continue
            if all(isinstance(each, nn.Module) for each in several):
                delattr(module, name)
                setattr(module, name, nn.ModuleDict(value) if isinstance(value, dict) else nn.ModuleList(several))
                change = Change(name, f"a {type(value).__name__}", type(getattr(module, name)).__name__)
                operation.record(change, _giving(module, name, value))
    _hold(operation)


def _giving(module: nn.Module, name: str, value: object) -> Callable[[], object]:
    def back() -> None:
        delattr(module, name)
        setattr(module, name, value)

    return back


def _hold(operation: Operation) -> None:
    operation.hold((name, each) for name, each in operation.model.named_parameters() if each.requires_grad)


def set_rate_of(parameters: Sequence[str], rate: float) -> Procedure:
    """Give the param groups that hold parameters of these names this learning rate."""

    def perform(operation: Operation) -> None:
        meant = {id(operation.model.get_parameter(name)) for name in parameters}
        for index, group in enumerate(operation.needs_optimizer("changes the learning rate").param_groups):
            if any(id(parameter) in meant for parameter in group["params"]):
                operation.set_option(index, "lr", rate)

    return Procedure(perform)
