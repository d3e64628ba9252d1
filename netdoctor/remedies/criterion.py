"""Options of the criterion: label smoothing and class weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.wording import describe
from netdoctor.treatment import Change, RemedyError


def smooth_labels(amount: float = 0.1) -> Remedy:
    """Give `nn.CrossEntropyLoss` label smoothing; needs the criterion: ``apply(model, optimizer, loss_fn)``."""
    return Remedy(
        f"Smooth the labels by {amount:g}",
        f"loss_fn = nn.CrossEntropyLoss(label_smoothing={amount:g})",
        "Szegedy et al. 2016, section 7; Müller et al. 2019",
        "the logits stop growing once the answers are right",
        treatment=Procedure(functools.partial(_smooth, amount=amount)),
    )


def weigh_classes(counts: Sequence[float]) -> Remedy:
    """Weigh each class by the inverse of its count, so that all weigh alike; needs the criterion.

    Args:
        counts: Samples, or shares, of each class; for two classes against one output, of 0 and of 1.
    """
    total = sum(counts)
    weights = [total / (len(counts) * max(count, 1e-12)) for count in counts]
    shown = ", ".join(f"{weight:.3g}" for weight in weights)
    ratio = weights[-1] / weights[0]
    code = f"loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([{shown}]))"
    if len(counts) == 2:
        code += f"\n# with one output: nn.BCEWithLogitsLoss(pos_weight=torch.tensor({ratio:.3g}))"
    return Remedy(
        f"Weigh the classes by the inverse of their frequency: {shown if len(counts) <= 10 else 'rare ones more'}",
        code,
        "King & Zeng 2001, section 4; Cui et al. 2019",
        "an error on a rare class costs as much as all the others together",
        treatment=Procedure(functools.partial(_weigh, weights=weights)),
    )


def average_loss() -> Remedy:
    """Let a criterion take the mean over the batch; needs it: ``apply(model, optimizer, loss_fn)``."""
    return Remedy(
        'Take the mean over the batch: reduction="mean"',
        'loss = loss_fn(model(x), y)  # with reduction="mean", which is the default of torch.nn\'s losses',
        "Goyal et al. 2017, section 2.1",
        "steps no longer grow with the batch",
        treatment=Procedure(_average),
    )


def _average(operation: Operation) -> None:
    criterion = _criterion(operation, "reductions")
    if getattr(criterion, "reduction", None) != "sum":
        raise RemedyError(f"{type(criterion).__name__} sums up nothing: the sum is taken elsewhere in the program")
    operation.set("reduction of the loss", criterion, "reduction", "mean")


def _smooth(operation: Operation, amount: float) -> None:
    criterion = _criterion(operation, "label smoothing")
    if not isinstance(criterion, nn.CrossEntropyLoss):
        raise RemedyError(f"{type(criterion).__name__} has no label smoothing")
    operation.set("label smoothing", criterion, "label_smoothing", amount)


def _weigh(operation: Operation, weights: Sequence[float]) -> None:
    criterion = _criterion(operation, "class weights")
    like = next(operation.model.parameters())
    if isinstance(criterion, (nn.CrossEntropyLoss, nn.NLLLoss)):
        _set_buffer(operation, criterion, "weight", torch.tensor(weights, device=like.device))
    elif isinstance(criterion, nn.BCEWithLogitsLoss) and len(weights) == 2:
        ratio = torch.tensor(weights[1] / weights[0], device=like.device)
        _set_buffer(operation, criterion, "pos_weight", ratio)
    else:
        raise RemedyError(f"{type(criterion).__name__} takes no weights for {len(weights)} classes")


def _criterion(operation: Operation, what: str) -> Any:
    """The criterion module.

    Raises:
        RemedyError: It was not given, or is no module.
    """
    if operation.loss_fn is None:
        raise RemedyError(f"{what} belong to the criterion: pass it, remedy.apply(model, optimizer, loss_fn)")
    if not isinstance(operation.loss_fn, nn.Module):
        raise RemedyError(f"{what} can only be set in a criterion module of torch.nn, not in a function")
    return operation.loss_fn


def _set_buffer(operation: Operation, criterion: nn.Module, name: str, value: Tensor) -> None:
    before = getattr(criterion, name)
    setattr(criterion, name, value)
    words = "none" if before is None else describe(before)
    operation.record(
        Change(f"{name} of {type(criterion).__name__}", words, describe(value)),
        lambda: setattr(criterion, name, before),
    )
