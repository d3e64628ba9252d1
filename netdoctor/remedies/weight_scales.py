"""Weights of another size: multiplied, bounded, or drawn anew for the last layer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure


def scale_weights(factors: Mapping[str, float], action: str, source: str, effect: str) -> Remedy:
    """Multiply weights and biases of layers, each by its factor; of attention layers those of queries and keys."""
    entries = "".join(f'\n    "{name}": {factor:.4g},' for name, factor in factors.items())
    return Remedy(
        action=action,
        code=f"factors = {{{entries}\n}}\n"
        "for name, factor in factors.items():\n"
        "    layer = model.get_submodule(name)\n"
        "    with torch.no_grad():\n"
        "        if isinstance(layer, nn.MultiheadAttention):\n"
        "            layer.in_proj_weight[: 2 * layer.embed_dim] *= factor  # queries and keys\n"
        "        else:\n"
        "            for parameter in layer.parameters(recurse=False):\n"
        "                parameter *= factor",
        source=source,
        effect=effect,
        treatment=Procedure(functools.partial(_scale_weights, factors=dict(factors))),
    )


def _scale_weights(operation: Operation, factors: Mapping[str, float]) -> None:
    for name, factor in factors.items():
        layer = operation.module(name)
        if isinstance(layer, nn.MultiheadAttention):
            weight = operation.parameter(name, "in_proj_weight")
            scaled = weight.detach().clone()
            scaled[: 2 * layer.embed_dim] *= factor
            operation.write(f"{name}.in_proj_weight", weight, scaled)
        else:
            for leaf, parameter in layer.named_parameters(recurse=False):
                operation.write(f"{name}.{leaf}", parameter, factor * parameter.detach())


def bound_weights(bounds: Mapping[str, float]) -> Procedure:
    """After each step scale the weights of these names down to at most this rms."""

    def perform(operation: Operation) -> None:
        optimizer = operation.needs_optimizer("acts after each step")

        def bound(*_: Any) -> None:
            with torch.no_grad():
                for name, rms in bounds.items():
                    weight = operation.model.get_parameter(name)
                    weight.mul_((rms / weight.square().mean().sqrt()).clamp(max=1))

        for name, rms in bounds.items():
            weight = operation.model.get_parameter(name)
            operation.write(name, weight, weight.detach() * (rms / weight.square().mean().sqrt()).clamp(max=1))
        operation.attach("the weights after each step", optimizer.register_step_post_hook(bound), "bounded")

    return Procedure(perform)


def quiet_head(layer: str, std: float | None) -> Procedure:
    """Normal weights of ``std`` (None leaves them) and no bias for the last layer."""

    def perform(operation: Operation) -> None:
        if std is not None:
            weight = operation.parameter(layer)
            operation.write(f"{layer}.weight", weight, nn.init.normal_(torch.empty_like(weight), std=std))
        if operation.module(layer)._parameters.get("bias") is not None:
            bias = operation.parameter(layer, "bias")
            operation.write(f"{layer}.bias", bias, torch.zeros_like(bias))

    return Procedure(perform)
