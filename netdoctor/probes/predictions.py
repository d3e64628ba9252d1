"""What the model predicts against what it should: read from the loss's autograd nodes before the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from netdoctor.loss_path import Path
from netdoctor.probes.comparisons import Choice, Outputs, Pair, choice, values

VALUES = ("mse", "l1", "smooth-l1")


def describe(path: Path, outputs: Outputs | None = None) -> dict[str, Tensor]:
    """Statistics of one batch's predictions and targets, 0-d tensors by name; empty where the loss does not show them.

    accuracy, largest_predicted_share and batch_class_share for classes and binary targets, with them
    probability_total and several_labels_share for classes; target_low, target_high, output_low, output_high and
    one_hot_share where values are compared; target_low and target_high of yes-or-no targets that all count.

    Args:
        path: From the loss to the last layer.
        outputs: What some of its nodes made.
    """
    chosen = choice(path)
    if chosen is not None:
        return _describe_classes(chosen)
    pair = values(path, outputs or {})
    if pair is None:
        return {}
    if path.kind.startswith("binary"):
        found = _describe_binary(pair.output > (0.0 if path.kind.endswith("logits") else 0.5), pair.target)
        ends = {"target_low": pair.target.min(), "target_high": pair.target.max()}
        return {**found, **ends} if _whole(path) else found
    return _describe_values(pair) if path.kind in VALUES else {}


def accuracy(function: str, output: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor | None:
    """Share of the targets that a call of a loss function of torch was given rightly; None where there is none."""
    if function in ("cross_entropy", "nll_loss") and not target.is_floating_point():
        target = target.masked_fill(target == options.get("ignore_index", -100), -1)
        return _describe_classes(Choice(0, output, min(1, output.ndim - 1), target))["accuracy"]
    if function.startswith("binary") and target.shape == output.shape:
        return _describe_binary(output > (0.0 if function.endswith("logits") else 0.5), target)["accuracy"]
    return None


def _describe_classes(chosen: Choice) -> dict[str, Tensor]:
    scores, axis = chosen.scores, chosen.axis
    predicted = scores.argmax(axis).reshape(-1)
    target = chosen.target.reshape(-1)
    valid = (target >= 0).float()
    seen = valid.sum().clamp_min(1)
    counts = torch.zeros(scores.shape[axis], dtype=torch.float32, device=scores.device)
    counts.scatter_add_(0, predicted, valid)
    hits = ((predicted == target).float() * valid).sum()
    given = torch.zeros_like(counts).scatter_add_(0, target.clamp(0, len(counts) - 1), valid)
    found = {
        "accuracy": hits / seen,
        "largest_predicted_share": counts.max() / seen,
        "batch_class_share": given.max() / seen,
        "batch_class": given.argmax().float(),
    }
    if chosen.sums is not None:
        found["probability_total"] = chosen.sums.float().mean()
    if chosen.shares is not None:
        found["several_labels_share"] = (_flags(chosen.shares).all(axis) & (chosen.shares.sum(axis) > 1)).float().mean()
    return found


def _describe_binary(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    positive = predicted.float().reshape(len(predicted), -1).mean(0) if predicted.ndim else predicted.float()
    agreed = (predicted == (target > 0.5)).float().mean()
    ones = (target > 0.5).float().reshape(len(target), -1).mean(0) if target.ndim else target.float()
    return {
        "accuracy": agreed,
        "largest_predicted_share": torch.maximum(positive, 1 - positive).mean(),
        "batch_class_share": torch.maximum(ones, 1 - ones).mean(),
        "batch_class": (ones.mean() > 0.5).float(),
    }


def _whole(path: Path) -> bool:
    """Whether torch's own loss takes the mean or sum over all targets: else some may be left out by a mask."""
    node = path.loss_node
    if node is None or node._saved_weight is not None:
        return False
    above = path.nodes[: path.nodes.index(node)]
    return bool(node._saved_reduction) or (above != () and above[-1].name() in ("MeanBackward0", "SumBackward0"))


def _describe_values(pair: Pair) -> dict[str, Tensor]:
    output, target = pair.output, pair.target
    if pair.sharp is not None:
        target = torch.where(pair.sharp, target, torch.nan)
    found = {
        "target_low": target.min(),
        "target_high": target.max(),
        "output_low": output.min(),
        "output_high": output.max(),
    }
    if target.ndim == 2 and target.shape[1] > 1:
        bits = _flags(target).all(1) & (target.sum(1) == 1)
        found["one_hot_share"] = bits.float().mean()
    return found


def _flags(tensor: Tensor) -> Tensor:
    """Which elements are 0 or 1."""
    return (tensor == 0) | (tensor == 1)
