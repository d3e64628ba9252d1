"""Weights of attention layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.wording import names_code


def xavier_attention(layers: Sequence[str]) -> Remedy:
    """Initialise the query, key and value weights of attention layers as torch does."""
    return Remedy(
        action="Initialise query, key and value weights with Xavier",
        code=f"for name in {names_code(layers)}:\n"
        "    nn.init.xavier_uniform_(model.get_submodule(name).in_proj_weight)",
        source="Glorot & Bengio 2010, section 4.2; Vaswani et al. 2017, section 3.2.1",
        effect="logits of variance 1: each query attends to all keys until it has learned which count",
        treatment=Procedure(functools.partial(_xavier_attention, layers=tuple(layers))),
    )


def _xavier_attention(operation: Operation, layers: Sequence[str]) -> None:
    for name in layers:
        weight = operation.parameter(name, "in_proj_weight")
        operation.write(f"{name}.in_proj_weight", weight, nn.init.xavier_uniform_(torch.empty_like(weight)))
