"""The softmaxes inside the model, attention and gates: read from the autograd graph on thorough samples."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor

from netdoctor.probes.transfer import Transfer
from netdoctor.structure import Node

ROWS = 256  # distributions looked at for each softmax: its mean entropy is known to a few percent
Softmaxes = tuple[tuple[str, ...], Transfer]  # columns, and `FIELDS` of each: [columns, 3]
FIELDS = ("softmax_entropy", "softmax_balance", "attention_logit")


def describe(
    nodes: Iterable[Node], upstream: Mapping[Node, tuple[str, ...]], output: Container[Node]
) -> Softmaxes | None:
    """`FIELDS` of each softmax, named after the nearest layer before it; None where there is none.

    Args:
        nodes: Of the autograd graph, inputs first.
        upstream: Nearest layers at or before each node.
        output: Nodes between the last layer and the loss: the softmax of the output is none of the model's inside.
    """
    found: dict[str, Tensor] = {}
    for node in nodes:
        name = node.name()
        layers = upstream.get(node)
        if not layers or node in output or layers[0] in found:
            continue
        if name == "SoftmaxBackward0":
            axis = node._saved_dim - 2**64 if node._saved_dim >= 2**63 else node._saved_dim
            shares = node._saved_result.detach().movedim(axis, -1)
            found[layers[0]] = _summary(_some(shares.reshape(-1, shares.shape[-1])))
        elif name.startswith("ScaledDotProduct"):
            found[layers[0]] = _attention(node)
    if not found:
        return None
    devices = {numbers.device for numbers in found.values()}
    rows = [numbers if len(devices) == 1 else numbers.cpu() for numbers in found.values()]
    return tuple(found), Transfer(torch.stack(rows))


def _attention(node: Node) -> Tensor:
    """Of a fused attention: its shares are computed anew for some queries of the first sample."""
    query, key = node._saved_query.detach()[0].float(), node._saved_key.detach()[0].float()  # [heads, length, width]
    scale = node._saved_scale or query.shape[-1] ** -0.5
    places = torch.arange(0, query.shape[-2], max(1, query.shape[-2] // 32), device=query.device)
    if len(key) != len(query):  # grouped queries
        key = key.repeat_interleave(len(query) // len(key), 0)
    with torch.autocast(query.device.type, enabled=False):  # of a loop that keeps it on for the whole step
        logits = query[:, places] @ key.transpose(-1, -2) * scale
    if node._saved_is_causal:
        later = torch.arange(key.shape[-2], device=key.device) > places[:, None]
        logits = logits.masked_fill(later, -torch.inf)
        largest = logits.masked_fill(later, 0).abs().amax()
    else:
        largest = logits.abs().amax()
    return _summary(logits.softmax(-1).reshape(-1, key.shape[-2]), largest)


def _some(shares: Tensor) -> Tensor:
    return shares[:: max(1, len(shares) // ROWS)].float()


def _summary(shares: Tensor, largest: Tensor | None = None) -> Tensor:
    """Mean entropy of the rows, entropy of their mean, both over that of equal shares, and the largest logit."""
    possible = (shares > 0).sum(-1).clamp_min(2).float().log()  # what a mask excludes has a share of exactly 0
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum(-1)
    mean = shares.mean(0)
    balance = -(mean * mean.clamp_min(1e-30).log()).sum() / math.log(max(shares.shape[-1], 2))
    logit = shares.new_full((), torch.nan) if largest is None else largest
    return torch.stack(((entropy / possible).mean(), balance, logit))
