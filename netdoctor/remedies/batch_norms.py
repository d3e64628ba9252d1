"""Batch norms and the biases before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.treatment import Change, RemedyError


def remove_biases(pairs: Sequence[tuple[str, str]]) -> Procedure:
    """Take the bias off layers that feed a batch norm, and off what the batch norm has gathered: outputs stay."""

    def perform(operation: Operation) -> None:
        for name, norm in pairs:
            layer: Any = operation.module(name)
            bias, gathered = operation.parameter(name, "bias"), operation.module(norm).running_mean
            if isinstance(gathered, torch.Tensor) and gathered.shape == bias.shape:
                operation.write(f"{norm}.running_mean", gathered, gathered - bias.detach())
            layer.bias = None
            operation.record(Change(f"{name}.bias", "a parameter", "none"), _giving(layer, bias))

    return Procedure(perform)


def _giving(layer: Any, bias: nn.Parameter) -> Any:
    return lambda: setattr(layer, "bias", bias)


def replace_batch_norms(norms: Mapping[str, bool]) -> Procedure:
    """Put a norm with the same weight and bias in the place of batch norms, one that looks at each sample alone.

    Args:
        norms: Their names, and whether each normalises rows (LayerNorm) or maps of channels (GroupNorm).
    """

    def perform(operation: Operation) -> None:
        for name, of_rows in norms.items():
            old: Any = operation.module(name)
            if not hasattr(old, "num_features"):
                raise RemedyError(f"{name} is {type(old).__name__}, no batch norm")
            units = old.num_features
            groups = next(count for count in (8, 4, 2, 1) if (units % count == 0 and units >= 2 * count) or count == 1)
            new = nn.LayerNorm(units) if of_rows else nn.GroupNorm(groups, units)
            if old.affine:
                new.weight, new.bias = old.weight, old.bias  # what the optimizer holds
            operation.replace(name, new)

    return Procedure(perform)


def gather_faster(momentum: float) -> Procedure:
    """Let all batch norms begin anew to gather statistics, and weigh each batch by ``momentum``."""

    def perform(operation: Operation) -> None:
        for name, norm in operation.model.named_modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
                operation.set(f"momentum of {name}", norm, "momentum", momentum)
                for kind, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
                    gathered = norm.get_buffer(kind)
                    operation.write(f"{name}.{kind}", gathered, torch.full_like(gathered, value))

    return Procedure(perform)
