"""Which optimizers of the program hold a model's parameters, those that were not shown too."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from netdoctor.facts import Facts
from netdoctor.probes.optimizers import describe_group


def holds(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether it holds a parameter of the model."""
    held = {id(each) for each in _parameters(optimizer)}
    return any(id(parameter) in held for parameter in model.parameters())


def holds_masters(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether it holds parameters of another format: copies that the program keeps of weights in half precision."""
    formats = {each.dtype for each in _parameters(optimizer)}
    return formats.isdisjoint(parameter.dtype for parameter in model.parameters())


def other_holders(optimizer: Optimizer, model: nn.Module) -> list[Optimizer]:
    """Living optimizers beside this one that hold parameters of the model; looked for where this one lacks some."""
    held = {id(each) for each in _parameters(optimizer)}
    if all(id(parameter) in held for parameter in model.parameters() if parameter.requires_grad):
        return []
    living = [each for each in gc.get_objects() if issubclass(type(each), Optimizer)]  # proxies act up when asked
    return [each for each in living if each is not optimizer and vars(each).get("param_groups") and holds(each, model)]


def with_holders(facts: Facts, model: nn.Module, optimizers: Sequence[Optimizer]) -> Facts:
    """Facts in which parameters of the model that belong to no group belong to those of these optimizers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups, held = list(facts.groups), {}
    for optimizer in optimizers:
        for index, group in enumerate(optimizer.param_groups):
            held.update({names[id(each)]: len(groups) for each in group["params"] if id(each) in names})
            groups.append(describe_group(optimizer, index))
    parameters = tuple(replace(p, group=held.get(p.name)) if p.group is None else p for p in facts.parameters)
    return facts.with_changes(groups=tuple(groups), parameters=parameters)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"] if isinstance(each, Tensor)]
