"""Whether units are copies of each other where a matrix holds several of them: gates, queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from netdoctor.probes.named import Named, named

GATES: tuple[tuple[type[nn.Module], int], ...] = (
    (nn.LSTM, 4),
    (nn.LSTMCell, 4),
    (nn.GRU, 3),
    (nn.GRUCell, 3),
    (nn.MultiheadAttention, 3),
)  # stacked matrices in one


def spread(modules: Iterable[tuple[str, nn.Module]]) -> Named | None:
    """``gate_spread`` of each stacked matrix: std over the units of one gate, over the rms; NaN for zeros."""
    found: dict[str, tuple[Tensor]] = {}
    with torch.no_grad():
        for name, module in modules:
            gates = next((count for kind, count in GATES if isinstance(module, kind)), 0)
            for leaf, weight in module._parameters.items() if gates else ():
                if weight is not None and leaf.startswith(("weight_ih", "weight_hh", "in_proj_weight")):
                    units = weight.float().view(gates, len(weight) // gates, -1)
                    across = units.var(1, unbiased=False).mean().sqrt() / weight.float().square().mean().sqrt()
                    found[f"{name}.{leaf}" if name else leaf] = (across,)
    return named(("gate_spread",), found)
