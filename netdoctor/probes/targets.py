"""The losses of the best constant prediction and of an uninformed one: what training must beat, and where it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from netdoctor.structure import Node, Path, learned_target

_Summary = tuple[Tensor, "Tensor | float", float]  # losses of the best constant and of no information; elements
COLUMNS = 4096  # target columns watched apart; wider targets are cut


class Targets:
    """Statistics of the targets seen, summed over batches on their own device.

    Attributes:
        described: Statistics of the targets so far: shares of the most frequent and the rarest class, or the rms.
    """

    def __init__(self) -> None:
        self.described: dict[str, Tensor] = {}
        self._sums: Tensor | None = None

    def add(self, path: Path) -> dict[str, Tensor | float] | None:
        """Take in one batch, from a loss's nodes before the backward pass frees them.

        Returns:
            ``constant_loss``, that of the best constant prediction for the targets so far, and ``uninformed_loss``,
            that of an output which knows nothing, equal shares of all classes or zero; both in the unit of the loss as
            the user computes it. None where the loss gives no such bound.
        """
        node = path.loss_node
        scale = _scale(path)
        judge = _JUDGES.get(path.kind)
        if node is None or judge is None or scale is None or learned_target(node):
            return None
        summary = judge(self, node)
        if summary is None:
            return None
        constant, uninformed, size = summary
        summed = node._saved_reduction == 2 or (node._saved_reduction == 0 and "SumBackward0" in path.names)
        factor = scale * (size if summed else 1.0)
        return {"constant_loss": constant * factor, "uninformed_loss": uninformed * factor}

    def observe(self, output: Tensor, target: Tensor) -> Tensor | None:
        """The same from a prediction and its target: class indices, else values of the output's shape."""
        if not target.is_floating_point() and output.ndim == target.ndim + 1:
            counts = torch.zeros(output.shape[1 if output.ndim > 1 else 0], device=target.device)
            counts.scatter_add_(0, target.reshape(-1), torch.ones(target.numel(), device=target.device))
            return self._entropy(counts)
        if target.is_floating_point() and output.shape == target.shape:
            return self._variance(target)
        return None

    def evaluate(self, function: str, output: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor | float | None:
        """The same from a call of a loss function of torch, per element; None where it gives no such bound."""
        of_classes = function in ("cross_entropy", "nll_loss")
        if of_classes and (target.is_floating_point() or options.get("label_smoothing")):
            return None
        if not of_classes and target.shape != output.shape:
            return None
        judge = _JUDGES.get(_KINDS.get(function, ""))
        if judge is None:
            return None
        saved = ("weight", None), ("pos_weight", None), ("ignore_index", -100)
        node = SimpleNamespace(**{f"_saved_{name}": options.get(name, default) for name, default in saved})
        node._saved_self, node._saved_target = output, target
        summary = judge(self, node)
        return None if summary is None else summary[0]

    def _accumulate(self, sums: Tensor) -> Tensor:
        sums = sums.double() if sums.device.type != "mps" else sums
        if self._sums is None or self._sums.shape != sums.shape:
            self._sums = sums
        else:
            self._sums = self._sums + sums
        return self._sums

    def _classes(self, node: Node) -> _Summary | None:
        log_probabilities, target = node._saved_self, node._saved_target
        classes = log_probabilities.shape[1 if log_probabilities.ndim > 1 else 0]
        flat = target.reshape(-1)
        valid = (flat != node._saved_ignore_index).to(log_probabilities.dtype)
        counts = torch.zeros(classes, device=flat.device, dtype=log_probabilities.dtype)
        counts.scatter_add_(0, flat.clamp(0, classes - 1), valid)
        entropy = self._entropy(counts if node._saved_weight is None else counts * node._saved_weight)
        return entropy, math.log(classes), float(flat.numel())

    def _entropy(self, counts: Tensor) -> Tensor:
        """Cross-entropy of the class frequencies so far, in nats."""
        p = self._accumulate(counts)
        p = p / p.sum()
        self.described = {"largest_class_share": p.max(), "smallest_class_share": p.min()}
        return -(p * p.clamp_min(1e-30).log()).sum()

    def _columns(self, target: Tensor) -> Tensor | None:
        if target.numel() == 0:
            return None
        return target.reshape(target.shape[0], -1)[:, :COLUMNS] if target.ndim > 1 else target.reshape(-1, 1)

    def _binary(self, node: Node) -> _Summary | None:
        columns = self._columns(node._saved_target)
        if columns is None or node._saved_weight is not None or getattr(node, "_saved_pos_weight", None) is not None:
            return None
        ones, count = self._accumulate(torch.stack((columns.sum(0), torch.ones_like(columns).sum(0))))
        p = (ones / count).clamp(1e-7, 1 - 1e-7)
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
        self.described = {
            "largest_class_share": torch.maximum(p, 1 - p).max(),
            "smallest_class_share": torch.minimum(p, 1 - p).min(),
        }
        return entropy, math.log(2), float(node._saved_target.numel())

    def _squared(self, node: Node) -> _Summary | None:
        target = node._saved_target if node.next_functions[0][0] is not None else node._saved_self  # given in its place
        variance = self._variance(target)
        if variance is None:
            return None
        return variance, self.described["target_rms"].square(), float(target.numel())

    def _variance(self, target: Tensor) -> Tensor | None:
        """Mean over the columns of the targets' variance so far."""
        columns = self._columns(target)
        if columns is None:
            return None
        columns = columns.double() if columns.device.type != "mps" else columns
        total, squares, count = self._accumulate(
            torch.stack((columns.sum(0), columns.square().sum(0), torch.ones_like(columns).sum(0)))
        )
        self.described = {"target_rms": (squares / count).mean().sqrt()}
        biased = (squares / count - (total / count).square()).clamp_min(0)
        variance: Tensor = (biased * count / (count - 1).clamp_min(1)).mean()
        return variance


def _scale(path: Path) -> Tensor | float | None:
    """Factor between the loss function's value and what `backward` was called on; None where it is no constant."""
    scale: Tensor | float = 1.0
    for node in path.nodes:
        name = node.name()
        if node is path.loss_node:
            return scale
        if name in ("MulBackward0", "DivBackward0"):
            other = node._saved_other
            if other is None or other.numel() != 1 or other.requires_grad:
                return None
            scale = scale * other.reshape(()) if name == "MulBackward0" else scale / other.reshape(())
        elif name not in ("MeanBackward0", "SumBackward0", "ToCopyBackward0", "ViewBackward0", "SqueezeBackward0"):
            return None
    return None


_KINDS = {
    "cross_entropy": "cross-entropy",
    "nll_loss": "nll",
    "binary_cross_entropy": "binary-cross-entropy",
    "binary_cross_entropy_with_logits": "binary-cross-entropy-with-logits",
    "mse_loss": "mse",
}  # functions of torch that `_JUDGES` knows
_Judge = Callable[[Targets, Node], "_Summary | None"]
_JUDGES: dict[str, _Judge] = {
    "nll": Targets._classes,
    "cross-entropy": Targets._classes,
    "binary-cross-entropy": Targets._binary,
    "binary-cross-entropy-with-logits": Targets._binary,
    "mse": Targets._squared,
}
