"""The softmaxes inside the model, attention and gates: read from the autograd graph on thorough samples."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netdoctor.facts import Layer
from netdoctor.nodes import Node
from netdoctor.probes.transfer import Transfer, together

SIDE = 16  # samples and queries looked at for each softmax: its mean entropy is known to a few percent
SAMPLES = 4  # of a fused attention, with all their heads
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples spread evenly over an interval and over the heads within it
Softmaxes = tuple[tuple[str, ...], Transfer]  # columns, and `FIELDS` of each: [columns, 3]
WAY = 16  # nodes from a softmax up to the product of queries and keys: scale, mask, bias, views
PRODUCTS = {  # nodes of matrix products, and where they keep their factors
    "BmmBackward0": ("_saved_self", "_saved_mat2"),
    "MmBackward0": ("_saved_self", "_saved_mat2"),
    "BaddbmmBackward0": ("_saved_batch1", "_saved_batch2"),
    "MvBackward0": ("_saved_self", "_saved_vec"),
}
PASSED = (  # nodes between the product and the softmax that leave the logits as they are, or mask them
    *("MulBackward0", "MulBackward1", "DivBackward0", "DivBackward1", "MaskedFillBackward0", "AddBackward0"),
    *("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "ExpandBackward0", "CloneBackward0"),
    *("ToCopyBackward0", "WhereBackward0"),
)
MASKED = -1e4  # below, a logit is a mask's, written as a large negative number
FIELDS = ("softmax_entropy", "softmax_balance", "attention_logit")


def describe(
    upstream: Mapping[Node, tuple[str, ...]],
    output: Container[Node],
    outputs: Mapping[Node, str],
    layers: Sequence[Layer],
    parameters: Mapping[int, str] | None = None,
) -> Softmaxes | None:
    """`FIELDS` of each softmax; None where there is none.

    A column has the name of the attention layer that the softmax is part of, of the module that owns the one query of a
    pooling, else of the nearest layer before it. Only attention, a softmax of products or of the scores that a layer of
    one unit gives to places, has logits; only attention and gates, a softmax over the units of a layer, have a balance;
    else these are NaN.

    Args:
        upstream: Of the nodes of the autograd graph, inputs first, the nearest layers at or before each.
        output: Nodes between the last layer and the loss: the softmax of the output is none of the model's inside.
        outputs: Output node of each layer with its name.
        layers: Facts of the layers.
        parameters: Names of the model's parameters, by ``id``.
    """
    found: dict[str, Tensor] = {}
    units = {layer.name: layer.units for layer in layers}
    inside = _inside(outputs, {layer.name for layer in layers if layer.kind == "attention"})
    for node, nearest in upstream.items():
        kind, name = node.name(), inside.get(node, nearest[0] if nearest else "")
        if (not nearest and node not in inside) or node in output or name in found:
            continue
        if kind in ("SoftmaxBackward0", "SafeSoftmaxBackward0"):
            axis = node._saved_dim - 2**64 if node._saved_dim >= 2**63 else node._saved_dim
            shares = node._saved_result.detach().movedim(axis, -1)
            products = _products(node, outputs)
            if products is None and units.get(name) == 1 < shares.shape[-1]:
                products = _Products()  # a score for each place
            elif products is not None and products.query in (parameters or {}):
                name = (parameters or {})[products.query].rpartition(".")[0]
            found[name] = _written_out(shares, products, shares.shape[-1] == units.get(name))
        elif kind.startswith("ScaledDotProduct"):
            found[name] = _attention(node)
    if not found:
        return None
    return tuple(found), Transfer(together(list(found.values())))


def _inside(outputs: Mapping[Node, str], attention: Container[str]) -> dict[Node, str]:
    """The nodes between the output of each attention layer and the layers before it, with its name."""
    names: dict[Node, str] = {}
    for end, name in outputs.items():
        below = [child for child, _ in end.next_functions] if name in attention else []
        while below:
            node = below.pop()
            if node is not None and node not in names and node not in outputs:
                names[node] = name
                below += [child for child, _ in node.next_functions]
    return names


@dataclass(frozen=True)
class _Products:
    """The products of queries and keys that a softmax is made of: [n, queries, width], [n, width, keys], their factor.

    Tensors are None where the way to the softmax is not known to be a factor and a mask. ``query`` is the ``id`` of the
    parameter that is the only query, 0 where none is.
    """

    queries: Tensor | None = None
    keys: Tensor | None = None
    scale: float = 1.0
    query: int = 0


def _products(node: Node, outputs: Container[Node]) -> _Products | None:
    """What stands at the way up from a softmax; None where a layer's output comes before any matrix product."""
    scale, clear = 1.0, True
    for _ in range(WAY):
        node = next((child for child, _ in node.next_functions if child is not None), None)
        if node is None or node in outputs:
            return None
        kind = node.name()
        if kind in PRODUCTS:
            if kind == "MvBackward0":
                return _Products(query=_parameter(node.next_functions[1][0]))
            first, second = (getattr(node, name) for name in PRODUCTS[kind])
            known = clear and first is not None and second is not None and first.ndim == 3
            return _Products(first.detach(), second.detach(), scale) if known else _Products()
        factor = 1.0
        if kind in ("MulBackward0", "MulBackward1", "DivBackward0", "DivBackward1"):
            other = node._saved_other
            constant = other is not None and (not isinstance(other, Tensor) or other.numel() == 1)
            clear &= constant and not (
                isinstance(other, Tensor) and other.device.type != "cpu"
            )  # it would be waited for
            factor = float(other) if clear else 1.0
        scale *= factor if kind.startswith("Mul") else 1 / factor
        clear &= kind in PASSED
    return None


def _parameter(node: Node | None) -> int:
    """``id`` of the parameter that comes to a node by a factor and other shapes at most; 0 where none does."""
    for _ in range(WAY):
        if node is None or hasattr(node, "variable"):
            break
        node = node.next_functions[0][0] if node.name() in PASSED else None
    return 0 if node is None else id(node.variable)


def _attention(node: Node) -> Tensor:
    """Of a fused attention: its shares are computed anew for some queries of some samples."""
    given, seen = node._saved_query.detach(), node._saved_key.detach()  # [samples, heads, length, width]
    samples = _spread(len(given), SAMPLES, given.device)
    places = _spread(given.shape[-2], SIDE, given.device)
    query, key = given[samples][:, :, places].float(), seen[samples].float()
    scale, length = node._saved_scale or query.shape[-1] ** -0.5, key.shape[-2]
    if key.shape[1] != query.shape[1]:  # grouped queries
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    with torch.autocast(query.device.type, enabled=False):  # of a loop that keeps it on for the whole step
        logits = query @ key.transpose(-1, -2) * scale
    masked = torch.zeros_like(logits, dtype=torch.bool)
    mask = getattr(node, "_saved_attn_mask", getattr(node, "_saved_attn_bias", None))
    if mask is not None:
        bias = mask.detach()[..., :length].expand(*given.shape[:-1], length)[samples][:, :, places].float()
        logits, masked = logits + bias, bias < MASKED
    if node._saved_is_causal:
        masked = masked | (torch.arange(length, device=key.device) > places[:, None])
    shares = logits.masked_fill(masked, -torch.inf).softmax(-1).nan_to_num(0.0)
    return _summary(shares.flatten(0, 1), logits.masked_fill(masked, 0).abs().amax())


def _written_out(shares: Tensor, products: _Products | None, gate: bool) -> Tensor:
    """Of the result of a softmax [..., queries, keys]; the largest logit is at least half the range of a row's."""
    flat = shares.reshape(-1, *(shares.shape[-2:] if shares.ndim > 2 else (1, shares.shape[-1])))
    samples = _spread(len(flat), SIDE if shares.ndim > 2 else SIDE**2, flat.device)
    queries = _spread(flat.shape[1], SIDE, flat.device)
    some = flat[samples][:, queries].float()
    least = some.masked_fill(some <= 0, torch.inf).amin(-1).clamp_max(1.0)
    largest = (some.amax(-1).clamp_min(1e-30).log() - least.log()).amax() / 2
    left, right, scale = (None, None, 1.0) if products is None else (products.queries, products.keys, products.scale)
    if left is not None and right is not None and (len(right), left.shape[1], right.shape[2]) == flat.shape:
        with torch.autocast(flat.device.type, enabled=False):
            logits = left[samples][:, queries].float() @ right[samples].float()
        possible = (some > 0).any(0)  # a mask leaves these
        largest = logits.abs().masked_fill(~possible, 0).amax() * abs(scale)
    numbers = _summary(some, largest)
    if products is None:
        numbers[2] = torch.nan
        numbers[1] = numbers[1] if gate else torch.nan
    return numbers


def _spread(extent: int, most: int, device: torch.device) -> Tensor:
    """At most so many indices below ``extent``, evenly spread."""
    if extent <= most:
        return torch.arange(extent, device=device)
    stride = round(extent * GOLDEN)
    while math.gcd(stride, extent) > 1:
        stride += 1
    return (torch.arange(0, most * stride, stride, device=device) % extent).sort().values


def _summary(shares: Tensor, largest: Tensor) -> Tensor:
    """Mean entropy of the rows, entropy of their mean, both over that of equal shares, and the largest logit.

    What a mask excludes has a share of exactly 0 in all samples of that query; a query with one key left tells nothing.
    """
    possible = (shares > 0).sum(-1).amax(0)
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum(-1).mean(0)
    told = possible > 1
    ratio = torch.where(told, entropy / possible.clamp_min(2).float().log(), 0.0).sum() / told.sum().clamp_min(1)
    mean = shares.flatten(0, 1).mean(0)
    balance = -(mean * mean.clamp_min(1e-30).log()).sum() / math.log(max(shares.shape[-1], 2))
    return torch.stack((ratio, balance, largest))
