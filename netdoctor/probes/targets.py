"""The losses of the best constant prediction and of an uninformed one: what training must beat, and where it starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from netdoctor.loss_path import Path
from netdoctor.nodes import Node, learned_target, made_shape
from netdoctor.probes.comparisons import Choice, Outputs, choice, values

_Summary = tuple["Tensor | float", "Tensor | float"]  # mean losses of the best constant and of no information
COLUMNS = 4096  # target columns watched apart; wider targets are cut
KEPT = 1 << 16  # targets kept for the median, which no sum tells
KEPT_ROWS, KEPT_COLUMNS = 64, 64  # of one batch
STEPS = 4  # from the median to the best constant of a smoothed absolute error; 1 % off at most
NUMBERED = 128  # whole targets from 0 up to here are counted: they may be class indices
PASSED = ("ToCopyBackward0", "ViewBackward0", "SqueezeBackward0", "SqueezeBackward1", "MeanBackward0", "MeanBackward1")


class Targets:
    """Statistics of the targets seen, summed over batches on their own device.

    Attributes:
        described: Statistics of the targets so far: shares of the most frequent and the rarest class; or mean, std and
            rms of values, and how evenly they are spread over 0, 1, 2 … if they are nothing but that.
    """

    def __init__(self) -> None:
        self.described: dict[str, Tensor] = {}
        self._sums: Tensor | None = None
        self._kept: Tensor | None = None
        self._numbers: Tensor | None = None

    def add(self, path: Path, outputs: Outputs | None = None) -> dict[str, Tensor | float] | None:
        """Take in one batch, from a loss's nodes before the backward pass frees them.

        Args:
            path: From the loss to the last layer.
            outputs: What some of its nodes made.

        Returns:
            ``constant_loss``, that of the best constant prediction for the targets so far, and ``uninformed_loss``,
            that of an output which knows nothing, equal shares of all classes or zero; both in the unit of the loss as
            the user computes it. None where the loss gives no such bound.
        """
        node = path.loss_node
        if node is not None and learned_target(node):
            return None
        if node is not None and path.kind in ("nll", "cross-entropy"):
            return self._picked(path, node)
        if node is None and path.kind in ("nll", "cross-entropy"):
            chosen = choice(path)
            return None if chosen is None else self._chosen(path, chosen)
        place = path.nodes.index(node) if node is not None else (path.difference or 1) - 1
        scale = _scale(path.nodes[:place])
        if scale is None:
            return None
        if node is not None and path.kind.startswith("binary"):
            summary = self._binary(node._saved_target, getattr(node, "_saved_pos_weight", None))
            summary = None if node._saved_weight is not None else summary
            return _in_units(summary, scale, node, node._saved_target.numel())
        pair = values(path, outputs or {}) if path.kind in ("mse", "l1", "smooth-l1") else None
        if pair is None:
            return None
        if node is not None:
            return _in_units(self._compared(path, pair.target), scale, node, pair.target.numel())
        summary = self._compared(path, pair.target, pair.sharp)
        if summary is not None:  # a constant, as the margin of a penalty, is no target to be learned
            varied = self.described["target_std"] > 1e-6 * self.described["target_rms"]
            summary = torch.where(varied, summary[0], math.nan), torch.where(varied, summary[1], math.nan)
        return _in_units(summary, scale)

    def observe(self, output: Tensor, target: Tensor) -> Tensor | None:
        """The same from a prediction and its target: class indices, else values of the output's shape."""
        if not target.is_floating_point() and output.ndim == target.ndim + 1:
            counts = torch.zeros(output.shape[1 if output.ndim > 1 else 0], dtype=torch.float32, device=target.device)
            counts.scatter_add_(0, target.reshape(-1), torch.ones_like(target.reshape(-1), dtype=torch.float32))
            return self._entropy(counts)
        if target.is_floating_point() and output.shape == target.shape:
            columns = _columns(target)
            return None if columns is None else self._variance(columns)
        return None

    def evaluate(self, function: str, output: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor | float | None:
        """The same from a call of a loss function of torch, per element; None where it gives no such bound."""
        if function in ("cross_entropy", "nll_loss"):
            if target.is_floating_point() or options.get("label_smoothing"):
                return None
            classes = output.shape[1 if output.ndim > 1 else 0]
            return self._entropy(_counts(target, classes, options.get("ignore_index", -100), options.get("weight")))
        if target.shape != output.shape:
            return None
        if function.startswith("binary") and options.get("weight") is None:
            summary = self._binary(target, options.get("pos_weight"))
            return None if summary is None else summary[0]
        columns = _columns(target) if function == "mse_loss" else None
        return None if columns is None else self._variance(columns)

    def _accumulate(self, sums: Tensor) -> Tensor:
        sums = sums.double() if sums.device.type != "mps" else sums
        if self._sums is None or self._sums.shape != sums.shape:
            self._sums = sums
            self._kept = self._numbers = None
        else:
            self._sums = self._sums + sums
        return self._sums

    def _picked(self, path: Path, node: Node) -> dict[str, Tensor | float] | None:
        """Class indices of torch's own losses."""
        place = path.nodes.index(node)
        smoothing = _smoothing(path, place)
        scale = _scale(path.nodes[: place if smoothing is None else place - 2])
        if scale is None:
            return None
        log_probabilities, target = node._saved_self, node._saved_target
        classes = log_probabilities.shape[1 if log_probabilities.ndim > 1 else 0]
        counts = _counts(target, classes, node._saved_ignore_index, node._saved_weight)
        entropy = self._entropy(counts, smoothing or 0.0)
        return _in_units((entropy, math.log(classes)), scale, node, counts.sum())

    def _chosen(self, path: Path, chosen: Choice) -> dict[str, Tensor | float] | None:
        """Classes that a loss written by hand picks, or weighs."""
        above = [node for node in path.nodes[: chosen.place] if not _logarithm(node)]
        scale = _scale(above)
        if scale is None:
            return None
        classes = chosen.scores.shape[chosen.axis]
        each: Tensor | float = 1.0  # what the classes of a row weigh together
        if chosen.shares is None:
            counts = torch.zeros(classes, dtype=torch.float32, device=chosen.scores.device)
            flat = chosen.target.reshape(-1)
            counts.scatter_add_(0, flat.clamp(0, classes - 1), (flat >= 0).float())
        else:
            counts = chosen.shares.movedim(chosen.axis, -1).reshape(-1, classes).float().sum(0)
            each = counts.sum() / max(chosen.shares.numel(), 1)
        sign = -1 if sum(node.name() == "NegBackward0" for node in path.nodes[chosen.place :]) % 2 == 0 else 1
        return _in_units((sign * each * self._entropy(counts), sign * each * math.log(classes)), scale)

    def _entropy(self, counts: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the class frequencies so far, in nats."""
        p = self._accumulate(counts)
        p = p / p.sum()
        self.described = {"largest_class_share": p.max(), "smallest_class_share": p.min()}
        p = (1 - smoothing) * p + smoothing / len(p)
        return -(p * p.clamp_min(1e-30).log()).sum()

    def _binary(self, target: Tensor, positive: Tensor | None = None) -> _Summary | None:
        """Of targets between 0 and 1, given the weight of those that are 1."""
        columns = _columns(target)
        if columns is None:
            return None
        ones, count = self._accumulate(torch.stack((columns.sum(0), torch.ones_like(columns).sum(0))))
        share = ones / count
        weights = share if positive is None else share * positive.reshape(-1)[: len(share)]
        total = weights + 1 - share
        p = (weights / total).clamp(1e-7, 1 - 1e-7)
        entropy = -(weights * p.log() + (1 - share) * (1 - p).log()).mean()
        entropy = torch.where(((share >= 0) & (share <= 1)).all(), entropy, torch.nan)  # else nothing bounds the loss
        self.described = {
            "largest_class_share": torch.maximum(p, 1 - p).max(),
            "smallest_class_share": torch.minimum(p, 1 - p).min(),
            "weighed_ones_share": weights.mean() / total.mean(),
        }
        return entropy, math.log(2) if positive is None else math.log(2) * total.mean()

    def _compared(self, path: Path, target: Tensor, sharp: Tensor | None = None) -> _Summary | None:
        columns = _columns(target)
        if columns is None:
            return None
        if sharp is not None:  # else it counts for nothing
            columns = torch.where(sharp, columns, 0)
        variance = self._variance(columns, sharp)
        if columns.shape[1] == 1 or (path.end is not None and made_shape(path.end)[-1:] == (1,)):
            self._number(columns.reshape(-1), sharp)
        if path.kind == "mse":
            return variance, self.described["target_rms"].square()
        kept, (loss, bound) = self._keep(columns), _elementwise(path)
        best = kept.sort(0).values[(len(kept) - 1) // 2]  # median() has no deterministic kernel on CUDA
        for _ in range(STEPS if bound else 0):  # towards the mean, as far as the loss is quadratic
            best = best + (kept - best).clamp(-bound, bound).mean(0)
        return loss(kept - best).mean(), loss(kept).mean()

    def _keep(self, columns: Tensor) -> Tensor:
        """Some of the targets so far, [rows, columns]."""
        rows = columns[:: max(1, -(-len(columns) // KEPT_ROWS))]
        rows = rows[:, :: max(1, -(-columns.shape[1] // KEPT_COLUMNS))].detach().float()
        if self._kept is None:
            self._kept = rows
        elif self._kept.numel() < KEPT:
            self._kept = torch.cat((self._kept, rows))
        return self._kept

    def _number(self, target: Tensor, sharp: Tensor | None) -> None:
        """How evenly whole targets are spread over 0, 1, 2 …, and how little a number's frequency tells of the next's.

        Both are 0 where they are not nothing but whole numbers.
        """
        target = target.detach().float()
        whole = (target == target.round()) & (target >= 0) & (target < NUMBERED)
        counts = torch.zeros(NUMBERED + 1, dtype=torch.float32, device=target.device)
        counts.scatter_add_(0, target.clamp(0, NUMBERED - 1).nan_to_num().long(), whole.float())
        counts[NUMBERED] = (~whole).sum()
        if sharp is not None:
            counts = torch.where(sharp, counts, 0)
        self._numbers = counts if self._numbers is None else self._numbers + counts
        p = self._numbers[:NUMBERED] / self._numbers.sum()
        entropy = -(p * p.clamp_min(1e-30).log()).sum()
        places = torch.arange(NUMBERED, device=p.device)
        highest = ((p > 0) * places).max()
        count = (highest + 1).clamp_min(2).float()
        evenness = entropy / count.log()
        ranks = torch.where(places <= highest, p, -1).argsort(stable=True).argsort().float()
        steps = torch.where(places[1:] <= highest, ranks.diff(), 0).square().sum()
        whole_alone = self._numbers[NUMBERED] == 0
        self.described["target_evenness"] = torch.where(whole_alone, evenness, 0.0)
        self.described["target_roughness"] = torch.where(whole_alone, 6 * steps / (count**3 - count), 0.0)

    def _variance(self, columns: Tensor, sharp: Tensor | None = None) -> Tensor:
        """Mean over the columns of the targets' variance so far."""
        columns = columns.detach()
        columns = columns.double() if columns.device.type != "mps" else columns
        counted = torch.ones_like(columns) if sharp is None else sharp.to(columns.dtype).expand_as(columns)
        total, squares, count = self._accumulate(torch.stack((columns.sum(0), columns.square().sum(0), counted.sum(0))))
        biased = (squares / count - (total / count).square()).clamp_min(0)
        variance: Tensor = (biased * count / (count - 1).clamp_min(1)).mean()
        self.described = {
            "target_rms": (squares / count).mean().sqrt(),
            "target_mean": (total / count).mean(),
            "target_std": variance.sqrt(),
        }
        return variance


def _counts(target: Tensor, classes: int, ignored: int, weight: Tensor | None) -> Tensor:
    """How often each class is the target, times its weight."""
    flat = target.reshape(-1)
    counts = torch.zeros(classes, dtype=torch.float32, device=flat.device)
    counts.scatter_add_(0, flat.clamp(0, classes - 1), (flat != ignored).float())
    return counts if weight is None else counts * weight


def _columns(target: Tensor) -> Tensor | None:
    if target.numel() == 0:
        return None
    return target.reshape(target.shape[0], -1)[:, :COLUMNS] if target.ndim > 1 else target.reshape(-1, 1)


def _in_units(
    summary: _Summary | None, scale: Tensor | float | None, node: Node | None = None, size: Tensor | float = 1.0
) -> dict[str, Tensor | float] | None:
    """Both losses in the unit of the loss, given its scale and, of torch's own, how it is reduced.

    ``size`` is the number of targets that a sum is taken over.
    """
    if summary is None or scale is None:
        return None
    factor = scale * (size if node is not None and node._saved_reduction == 2 else 1.0)
    return {"constant_loss": summary[0] * factor, "uninformed_loss": summary[1] * factor}


def _elementwise(path: Path) -> tuple[Callable[[Tensor], Tensor], float]:
    """What the loss makes of one difference, and up to which one it is quadratic."""
    node = path.loss_node
    if path.kind == "l1" or node is None:
        return torch.abs, 0.0
    huber = node.name() == "HuberLossBackward0"
    bound = float(node._saved_delta if huber else node._saved_beta)
    slope = bound if huber else 1.0
    if bound == 0:
        return torch.abs, 0.0

    def loss(difference: Tensor) -> Tensor:
        size = difference.abs()
        return torch.where(size < bound, 0.5 * slope / bound * size.square(), slope * (size - 0.5 * bound))

    return loss, bound


def _logarithm(node: Node) -> bool:
    """Whether a node takes the logarithm of what was picked, or adds a constant to it before."""
    alone = sum(child is not None for child, _ in node.next_functions) == 1
    return node.name() == "LogBackward0" or (node.name() == "AddBackward0" and alone)


def _smoothing(path: Path, place: int) -> float | None:
    """Label smoothing of torch's cross-entropy, whose nodes end above the one at ``place``; None without it."""
    if place < 2 or path.names[place - 2 : place] != ("AddBackward0", "MulBackward1"):
        return None
    factors = [child for child, _ in path.nodes[place - 2].next_functions if child is not None]
    if len(factors) != 2 or any(factor.name() != "MulBackward1" for factor in factors):
        return None
    smoothing = 1 - float(path.nodes[place - 1]._saved_other)
    rest = next(factor for factor in factors if factor is not path.nodes[place - 1])
    classes = path.nodes[place]._saved_self.shape[1 if path.nodes[place]._saved_self.ndim > 1 else 0]
    return smoothing if math.isclose(float(rest._saved_other) * classes, smoothing, rel_tol=1e-3) else None


def _scale(nodes: Sequence[Node]) -> Tensor | float | None:
    """Factor that ``nodes``, from the loss down, put on the mean of what they begin with; None where it is none."""
    scale: Tensor | float = 1.0
    for node in nodes:
        name = node.name()
        if name in ("MulBackward0", "DivBackward0", "MulBackward1", "DivBackward1"):
            other = node._saved_other
            if isinstance(other, Tensor):
                if other.ndim or other.requires_grad:  # one number for each sample, if only of a single one
                    return None
            elif other is None:
                return None
            scale = scale * other if name.startswith("Mul") else scale / other
        elif name in ("SumBackward0", "SumBackward1"):
            scale = scale * (prod(node._saved_self_sym_sizes) / max(prod(made_shape(node)), 1))
        elif name == "NegBackward0":
            scale = -scale
        elif name not in PASSED:
            return None
    return scale
