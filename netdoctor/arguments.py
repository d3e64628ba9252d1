"""Checks of what the user passes: every error says what was given, what is allowed, and the nearest match."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from netdoctor.reporters import Reporter
from netdoctor.reporters.by_name import named_reporter
from netdoctor.rules import ALL
from netdoctor.rules.base import Rule
from netdoctor.spelling import nearest

UNSEEN = "keeps weights and gradients where netdoctor cannot see them; FSDP2 (torch's fully_shard) can be watched"


def check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"watch() takes a torch.nn.Module, not {type(model).__name__}: pass the model itself")
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train and nothing to watch")
    if any(kind.__module__.partition(".")[0] == "deepspeed" for kind in type(model).__mro__):
        raise NotImplementedError(f"{type(model).__name__} is not supported: DeepSpeed {UNSEEN}")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise NotImplementedError(f"the model is not supported: DeepSpeed ZeRO {UNSEEN}")
        if parameter.device.type == "xla":
            raise NotImplementedError(f"{name!r} is on an XLA device, which is not supported: samples would stall it")
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"{name!r} is lazy and has no shape yet: pass one batch through the model before watch()")


def check_optimizer(optimizer: object) -> None:
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, not {type(optimizer).__name__}")


def scalar(name: str, value: Tensor | float) -> Tensor | float:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must be a scalar, not a tensor of shape {tuple(value.shape)}: average it first")
        return value.detach().reshape(())
    if isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{name} must be a number or a tensor with one element, not {type(value).__name__}")


def prediction(output: object, target: object) -> tuple[Tensor, Tensor]:
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        given = f"{type(output).__name__} and {type(target).__name__}"
        raise TypeError(f"output and target are two tensors that belong together, not {given}")
    return output, target


def chosen_rules(rules: Iterable[str | Rule] | None, ignore: Iterable[str]) -> tuple[Rule, ...]:
    catalogue = {rule.slug: rule for rule in ALL}
    for several in (rules, ignore):
        if isinstance(several, str):
            raise TypeError(f"rules and ignore take a list of slugs, not the string {several!r}: write [{several!r}]")
    ignored = set(ignore)
    chosen: list[Rule] = []
    for given in ALL if rules is None else rules:
        chosen.append(given if isinstance(given, Rule) else catalogue[_slug(given, catalogue)])
    for slug in ignored:
        _slug(slug, catalogue)
    return tuple(rule for rule in chosen if rule.slug not in ignored)


def _slug(given: object, catalogue: Iterable[str]) -> str:
    if not isinstance(given, str):
        raise TypeError(f"a rule is given by its slug, such as 'dead-units', not as {type(given).__name__}")
    if given not in catalogue:
        raise nearest(given, catalogue, "rule")
    return given


def chosen_layers(modules: dict[str, nn.Module], patterns: Iterable[str] | None) -> dict[str, nn.Module]:
    if patterns is None:
        return modules
    if isinstance(patterns, str):
        raise TypeError(f"layers takes a list of patterns, not the string {patterns!r}: write [{patterns!r}]")
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f"layers are given by patterns of names, such as 'encoder.*', not as {type(pattern).__name__}"
            )
        matching = {name: module for name, module in modules.items() if fnmatchcase(name, pattern)}
        if not matching:
            raise nearest(pattern, modules, "layer that matches")
        chosen |= matching
    return {name: module for name, module in modules.items() if name in chosen}


def chosen_reporters(reporters: Iterable[str | Reporter] | None) -> tuple[Reporter, ...]:
    if isinstance(reporters, str):
        raise TypeError(f"reporters takes a list, not the string {reporters!r}: write [{reporters!r}]")
    chosen: list[Reporter] = []
    for given in ("console",) if reporters is None else reporters:
        if isinstance(given, str):
            chosen.append(named_reporter(given))
        elif callable(getattr(given, "report", None)) and callable(getattr(given, "close", None)):
            chosen.append(given)
        else:
            raise TypeError(f"a reporter is a name or an object with report() and close(), not {type(given).__name__}")
    return tuple(chosen)


def checked_budget(budget: float) -> float:
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if not number or not 0 < budget <= 1:
        raise ValueError(f"budget is the share of the training time to take: above 0 and at most 1, not {budget!r}")
    return float(budget)


def checked_every(every: int | None) -> int | None:
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f"every is a number of steps, 1 or more, not {every!r}")
    return every
