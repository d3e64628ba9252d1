"""Other options for the optimizer: learning rate, weight decay, momentum."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.rate_factor import scale_scheduled, scheduled
from netdoctor.treatment import RemedyError


def scale_learning_rate(factor: float, now: float | None = None) -> Remedy:
    """Multiply the learning rate of every param group by ``factor``; where a scheduler sets it, at every step."""
    target = f" from {now:.3g} to {now * factor:.3g}" if now else ""
    times = max(factor, 1 / factor)
    size = f"{times:,.0f}×" if times >= 100 else f"{times:.3g}×"
    return Remedy(
        action=f"{'Raise' if factor > 1 else 'Lower'} the learning rate {size}{target}",
        code=f'for group in optimizer.param_groups:\n    group["lr"] *= {factor:.6g}',
        source="Bengio 2012, Practical recommendations, section 3.1",
        treatment=Procedure(functools.partial(_scale_learning_rate, factor=factor)),
    )


def _scale_learning_rate(operation: Operation, factor: float) -> None:
    optimizer = operation.needs_optimizer("changes the learning rate")
    operation.needs_finite_weights()
    if scheduled(optimizer):
        scale_scheduled(operation, factor)
        return
    for index, group in enumerate(optimizer.param_groups):
        operation.set_option(index, "lr", group["lr"] * factor)


def slower(update_ratio: float) -> float:
    """Factor on the learning rate that makes of updates of ``update_ratio`` updates of about 1 %; at most 0.5."""
    wanted = min(max(0.01 / max(update_ratio, 1e-9), 1e-4), 0.5)
    return float(f"{wanted:.0e}")


def set_learning_rate(value: float) -> Remedy:
    """Give every param group the learning rate ``value``."""
    return Remedy(
        action=f"Set the learning rate to {value:.3g}",
        code=f'for group in optimizer.param_groups:\n    group["lr"] = {value:.6g}',
        source="Bengio 2012, Practical recommendations, section 3.1",
        treatment=Procedure(functools.partial(_set_learning_rate, value=value)),
    )


def _set_learning_rate(operation: Operation, value: float) -> None:
    optimizer = operation.needs_optimizer("changes the learning rate")
    operation.needs_finite_weights()
    if scheduled(optimizer):
        raise RemedyError("a scheduler sets this optimizer's learning rate: give the scheduler another base rate")
    for index in range(len(optimizer.param_groups)):
        operation.set_option(index, "lr", value)


def set_weight_decay(value: float, now: float = 0.0) -> Remedy:
    """Give every param group that decays, or all where none does, the weight decay ``value``."""
    return Remedy(
        action=f"{'Raise' if value > now else 'Lower'} the weight decay from {now:g} to {value:g}",
        code=f'for group in optimizer.param_groups:\n    group["weight_decay"] = {value:g}',
        source="Krogh & Hertz 1991; Loshchilov & Hutter 2019",
        effect="smaller weights, a smoother function"
        if value > now
        else "the loss, not the decay, decides the weights",
        treatment=Procedure(functools.partial(_set_weight_decay, value=value)),
    )


def _set_weight_decay(operation: Operation, value: float) -> None:
    groups = operation.needs_optimizer("changes the weight decay").param_groups
    having = [index for index, group in enumerate(groups) if "weight_decay" in group]
    if not having:
        raise RemedyError(f"{type(operation.optimizer).__name__} has no weight decay")
    decaying = [index for index in having if groups[index]["weight_decay"]]
    for index in decaying or having:
        operation.set_option(index, "weight_decay", value)


def set_momentum(value: float) -> Remedy:
    """Give every param group the momentum ``value``: of SGD, or Adam's first beta."""
    return Remedy(
        action=f"Set the momentum to {value:g}",
        code="for group in optimizer.param_groups:\n"
        '    if "betas" in group:\n'
        f'        group["betas"] = ({value:g}, *group["betas"][1:])\n'
        "    else:\n"
        f'        group["momentum"] = {value:g}',
        source="Sutskever et al. 2013, section 2",
        treatment=Procedure(functools.partial(_set_momentum, value=value)),
    )


def _set_momentum(operation: Operation, value: float) -> None:
    for index, group in enumerate(operation.needs_optimizer("changes the momentum").param_groups):
        if "betas" in group:
            operation.set_option(index, "betas", (value, *group["betas"][1:]))
        elif "momentum" in group:
            operation.set_option(index, "momentum", value)
        else:
            raise RemedyError(f"{type(operation.optimizer).__name__} has no momentum")


def find_learning_rate() -> Remedy:
    """Measure the learning rate with a range test."""
    return Remedy(
        action="Measure it: on a copy of the model, raise the rate at each step and see where the loss falls fastest",
        code="curve = netdoctor.find_lr(model, loader, loss_fn, optimizer)\nprint(curve)",
        source="Smith 2017, Cyclical Learning Rates, section 3.3",
        effect="the largest rate at which the loss still falls steadily",
    )


def slow_groups(factors: Mapping[int, float]) -> Remedy:
    """Multiply the learning rates of some param groups, each by its factor."""
    groups = ", ".join(f"of group {index} {1 / factor:.3g}×" for index, factor in factors.items())
    return Remedy(
        action=f"Lower the learning rate {groups}",
        code="\n".join(f'optimizer.param_groups[{index}]["lr"] *= {factor:.6g}' for index, factor in factors.items()),
        source="Bengio 2012, Practical recommendations, section 3.1",
        treatment=Procedure(functools.partial(_slow_groups, factors=dict(factors))),
    )


def _slow_groups(operation: Operation, factors: Mapping[int, float]) -> None:
    optimizer = operation.needs_optimizer("changes learning rates")
    for index, factor in factors.items():
        operation.set_option(index, "lr", optimizer.param_groups[index]["lr"] * factor)
