"""What the model predicts against what it should: read from the loss's autograd nodes before the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from netdoctor.structure import Node, Path

ELEMENTS = 1 << 20  # of a prediction at most: larger ones would cost more than they tell
PROBABILITIES = ("SoftmaxBackward0", "LogSoftmaxBackward0")
VALUES = ("mse", "l1", "smooth-l1")


def describe(path: Path) -> dict[str, Tensor]:
    """Statistics of one batch's predictions and targets, 0-d tensors by name; empty where the loss does not show them.

    accuracy and largest_predicted_share for classes and binary targets; target_low, target_high, output_low,
    output_high and one_hot_share where values are compared.
    """
    classes = _classes(path)
    if classes is not None:
        return _describe_classes(*classes)
    node = path.loss_node
    if node is None or "_saved_target" not in dir(node):
        return {}
    output, target = node._saved_self.detach(), node._saved_target.detach()
    if output.shape != target.shape or not 0 < output.numel() <= ELEMENTS:
        return {}
    if path.kind.startswith("binary"):
        return _describe_binary(output > (0.0 if path.kind.endswith("logits") else 0.5), target)
    return _describe_values(output, target) if path.kind in VALUES else {}


def accuracy(function: str, output: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor | None:
    """Share of the targets that a call of a loss function of torch was given rightly; None where there is none."""
    if function in ("cross_entropy", "nll_loss") and not target.is_floating_point():
        target = target.masked_fill(target == options.get("ignore_index", -100), -1)
        return _describe_classes(output, target, min(1, output.ndim - 1))["accuracy"]
    if function.startswith("binary") and target.shape == output.shape:
        return _describe_binary(output > (0.0 if function.endswith("logits") else 0.5), target)["accuracy"]
    return None


def _classes(path: Path) -> tuple[Tensor, Tensor, int] | None:
    """Scores of the classes, class indices, and the dimension over classes; for losses written by hand, too."""
    for place, node in enumerate(path.nodes):
        name = node.name()
        if name in ("NllLossBackward0", "NllLoss2DBackward0"):
            scores, target = node._saved_self.detach(), node._saved_target
            target = target.masked_fill(target == node._saved_ignore_index, -1)
            return (scores, target, min(1, scores.ndim - 1)) if scores.numel() <= ELEMENTS else None
        below = next((other for other in path.nodes[place + 1 :] if other.name() in PROBABILITIES), None)
        if below is None:
            continue
        scores = below._saved_result.detach()
        axis = below._saved_dim % 2**64
        axis = (axis - 2**64 if axis >= 2**63 else axis) % max(scores.ndim, 1)
        target = _target(node, scores, axis)
        if target is not None:
            return (scores, target, axis) if scores.numel() <= ELEMENTS else None
    return None


def _target(node: Node, scores: Tensor, axis: int) -> Tensor | None:
    """Class indices that a node of a loss written by hand picks from ``scores``, or weighs them with."""
    name = node.name()
    picked: Tensor | None = None
    if name == "GatherBackward0" and node._saved_index.shape[axis : axis + 1] == (1,):
        picked = node._saved_index.squeeze(axis)
    elif name == "IndexBackward0" and scores.ndim == 2 and axis == 1:
        picked = next((index for index in reversed(node._saved_indices) if index is not None), None)
    elif name == "MulBackward0":
        saved = (node._saved_other, node._saved_self)
        weights = [t for t in saved if t is not None and not t.requires_grad and t.shape == scores.shape]
        picked = weights[0].argmax(axis) if weights else None
    if picked is None or picked.dtype not in (torch.int64, torch.int32):
        return None
    return picked if picked.numel() * scores.shape[axis] == scores.numel() else None


def _describe_classes(scores: Tensor, target: Tensor, axis: int) -> dict[str, Tensor]:
    predicted = scores.argmax(axis).reshape(-1)
    target = target.reshape(-1)
    valid = (target >= 0).float()
    seen = valid.sum().clamp_min(1)
    counts = torch.zeros(scores.shape[axis], device=scores.device).scatter_add_(0, predicted, valid)
    hits = ((predicted == target).float() * valid).sum()
    return {"accuracy": hits / seen, "largest_predicted_share": counts.max() / seen}


def _describe_binary(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    positive = predicted.float().reshape(len(predicted), -1).mean(0) if predicted.ndim else predicted.float()
    agreed = (predicted == (target > 0.5)).float().mean()
    return {"accuracy": agreed, "largest_predicted_share": torch.maximum(positive, 1 - positive).mean()}


def _describe_values(output: Tensor, target: Tensor) -> dict[str, Tensor]:
    found = {
        "target_low": target.min(),
        "target_high": target.max(),
        "output_low": output.min(),
        "output_high": output.max(),
    }
    if target.ndim == 2 and target.shape[1] > 1:
        bits = ((target == 0) | (target == 1)).all(1) & (target.sum(1) == 1)
        found["one_hot_share"] = bits.float().mean()
    return found
