"""Where the prediction meets its target: both are read from the loss's autograd nodes, before the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from netdoctor.loss_path import Path
from netdoctor.nodes import FUNCTIONS, RESHAPING, Node, made_shape

ELEMENTS = 1 << 20  # of a prediction at most: larger ones would cost more than they tell
PROBABILITIES = ("SoftmaxBackward0", "LogSoftmaxBackward0")
Outputs = Mapping[Node, Tensor]


@dataclass(frozen=True)
class Choice:
    """A loss that picks classes, or weighs them.

    Attributes:
        place: Of the node that does, in the path.
        scores: Probabilities of the classes, or their logarithms.
        axis: Dimension over classes.
        target: Class indices, -1 where there is no target.
        shares: What each class weighs, of the shape of ``scores``; None where indices pick.
        sums: Of each row's probabilities; 1 where these are a distribution.
    """

    place: int
    scores: Tensor
    axis: int
    target: Tensor
    shares: Tensor | None = None
    sums: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """A prediction and its target, of one shape.

    Attributes:
        output: The prediction.
        target: Its target.
        sharp: Whether the target could be told from the difference, a 0-d tensor; not where the prediction is so large
            that it drowns the target. None where the target itself was kept.
    """

    output: Tensor
    target: Tensor
    sharp: Tensor | None = None


def choice(path: Path) -> Choice | None:
    """What a loss over classes picks, torch's own or one written by hand; None where it is none, or too large."""
    for place, node in enumerate(path.nodes):
        name = node.name()
        if name in ("NllLossBackward0", "NllLoss2DBackward0"):
            scores, target = node._saved_self.detach(), node._saved_target
            target = target.masked_fill(target == node._saved_ignore_index, -1)
            axis = min(1, scores.ndim - 1)
            found = Choice(place, scores, axis, target, sums=scores.exp().sum(axis))
        else:
            candidate = _picked(path, place)
            if candidate is None:
                continue
            found = candidate
        return found if found.scores.numel() <= ELEMENTS else None
    return None


def _picked(path: Path, place: int) -> Choice | None:
    """Classes that a node of a loss written by hand picks, or weighs."""
    node = path.nodes[place]
    name = node.name()
    if name not in ("GatherBackward0", "IndexBackward0", "MulBackward0"):
        return None
    ends = (*PROBABILITIES, "LogBackward0", *(("SigmoidBackward0",) if "LogBackward0" in path.names[:place] else ()))
    below = next((other for other in path.nodes[place + 1 :] if other.name() in ends), None)
    if below is None or (below.name() == "LogBackward0" and _weighted(below)):
        return None
    scores = (below._saved_self if below.name() == "LogBackward0" else below._saved_result).detach()
    if below.name() not in PROBABILITIES:  # what is picked from need not be a distribution
        softmax = next((other for other in path.nodes[place + 1 :] if other.name() == "SoftmaxBackward0"), None)
        known = _over_classes(path, place) if softmax is None else _signed(softmax._saved_dim, scores.ndim)
        if known is None or (softmax is None and not _alone(path, place)):
            return None
        axis = known
    else:
        axis = _signed(below._saved_dim, scores.ndim)
    picked: Tensor | None = None
    shares: Tensor | None = None
    if name == "GatherBackward0" and node._saved_index.shape[axis : axis + 1] == (1,):
        picked = node._saved_index.squeeze(axis)
    elif name == "IndexBackward0" and scores.ndim == 2 and axis == 1:
        picked = next((index for index in reversed(node._saved_indices) if index is not None), None)
    elif name == "MulBackward0":
        saved = (node._saved_other, node._saved_self)
        weights = [t for t in saved if t is not None and not t.requires_grad and t.shape == scores.shape]
        shares = weights[0].detach() if weights else None
        picked = None if shares is None else shares.argmax(axis)
    if picked is None or picked.dtype not in (torch.int64, torch.int32):
        return None
    if picked.numel() * scores.shape[axis] != scores.numel():
        return None
    sums = scores.exp().sum(axis) if below.name() == "LogSoftmaxBackward0" else scores.sum(axis)
    return Choice(place, scores, axis, picked.long(), shares, sums)


def _weighted(logarithm: Node) -> bool:
    """Whether it is the logarithm of p / q or p * q with a tensor that is given: no probabilities then."""
    ratio = logarithm.next_functions[0][0]
    if ratio is None or ratio.name() not in ("DivBackward0", "MulBackward0"):
        return False
    if None not in [child for child, _ in ratio.next_functions]:
        return False  # normalised by what the model makes itself
    kept = (ratio._saved_self, ratio._saved_other)
    return any(isinstance(tensor, Tensor) and not tensor.requires_grad and tensor.ndim > 0 for tensor in kept)


def _over_classes(path: Path, place: int) -> int | None:
    """Dimension over classes of a loss without softmax: the one that is picked from, or summed over."""
    node = path.nodes[place]
    if node.name() == "GatherBackward0":
        return _signed(node._saved_dim, len(made_shape(node)))
    if node.name() == "IndexBackward0":
        return 1
    above = path.nodes[place - 1] if place else None
    if above is not None and above.name() == "NegBackward0" and place > 1:
        above = path.nodes[place - 2]
    if above is not None and above.name() == "SumBackward1" and len(above._saved_dim) == 1:
        return _signed(above._saved_dim[0], len(made_shape(node)))
    return None


def _alone(path: Path, place: int) -> bool:
    """Whether nothing else that is trained is added above ``place``: log p of one half of a binary cross-entropy."""
    sums = [node for node in path.nodes[:place] if node.name() in ("AddBackward0", "SubBackward0")]
    return all(sum(child is not None for child, _ in node.next_functions) < 2 for node in sums)


def _signed(dimension: int, dimensions: int) -> int:
    """A dimension as autograd saves it, unsigned, as one from 0."""
    return (dimension - 2**64 if dimension >= 2**63 else dimension) % max(dimensions, 1)


def values(path: Path, outputs: Outputs) -> Pair | None:
    """Prediction and target of a loss that compares values; None where they are not known, or too large.

    Args:
        path: From the loss to the last layer.
        outputs: What some of the nodes made: a difference is kept for the backward pass, and tells of the target only
            with the prediction.
    """
    node, place = path.loss_node, path.difference
    if node is not None:
        if "_saved_target" not in dir(node):
            return None
        pair = Pair(node._saved_self.detach(), node._saved_target.detach())
        if node.next_functions[0][0] is None:  # given in each other's place
            pair = Pair(pair.target, pair.output)
    elif place is not None:
        difference = path.nodes[place - 1]._saved_self.detach()
        made = _made(path, place, outputs)
        if made is None or made.numel() != difference.numel():
            return None
        first = path.nodes[place].next_functions[0][0] is not None  # prediction - target
        pair = _told(made.reshape(difference.shape).to(difference.dtype), difference, first)
    else:
        return None
    return pair if pair.output.shape == pair.target.shape and 0 < pair.output.numel() <= ELEMENTS else None


def _told(output: Tensor, difference: Tensor, first: bool) -> Pair:
    """The target behind a difference, as sharp as the two tell it."""
    target = output - difference if first else output + difference
    resolution = 4 * torch.finfo(difference.dtype).eps * (output.abs() + difference.abs())
    sharp = target.isfinite().all() & (resolution.amax() <= 0.01 * target.abs().amax())
    return Pair(output, torch.where((target - target.round()).abs() <= resolution, target.round(), target), sharp)


def _made(path: Path, place: int, outputs: Outputs) -> Tensor | None:
    """What stands below ``place``, from its values or from those of a nonlinearity that keeps its result."""
    for node in (*path.nodes[place + 1 :], path.end):
        if node in outputs:
            return outputs[node].detach()
        if node is not None and node.name() in FUNCTIONS and "_saved_result" in dir(node):
            result: Tensor = node._saved_result
            return result.detach()
        if node is None or node.name() not in RESHAPING:
            return None
    return None
