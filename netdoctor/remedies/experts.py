"""The gate of a mixture of experts."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from netdoctor.facts import Layer
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure


def balance_experts(gate: Layer, experts: int) -> Remedy:
    """Fresh weights for a gate, and the gradient of a balance loss as large as its own while experts are unequal."""
    std = 0.1 * gate.fan_in**-0.5
    return Remedy(
        action="Initialise the gate anew, and give it the gradient of a balance loss",
        code=f"gate = model.get_submodule({gate.name!r})\n"
        f"nn.init.normal_(gate.weight, std={std:.3g})\n"
        "if gate.bias is not None:\n"
        "    nn.init.zeros_(gate.bias)\n\n"
        "def balanced(module, args, logits):\n"
        "    if not logits.requires_grad:\n"
        "        return\n"
        "    chances = logits.detach().softmax(-1).flatten(0, -2)\n"
        f"    load = F.one_hot(chances.argmax(-1), {experts}).to(chances).mean(0)\n"
        f"    excess = ({experts} * (load * chances.mean(0)).sum() - 1).clamp(0, 1)\n"
        "    push = chances * (load - (chances * load).sum(-1, keepdim=True))\n"
        "    push = (excess * push / push.norm().clamp_min(1e-12)).view_as(logits)\n"
        "    logits.register_hook(lambda gradient: gradient + 3 * gradient.norm() * push)\n\n"
        "gate.register_forward_hook(balanced)",
        source="Fedus et al. 2022, Switch Transformers, equation 4",
        effect="every expert gets rows to learn from; where all get the same, nothing is added",
        treatment=Procedure(functools.partial(_balance_experts, name=gate.name, std=std)),
    )


def _balance_experts(operation: Operation, name: str, std: float) -> None:
    weight, gate = operation.parameter(name), operation.module(name)
    operation.write(f"{name}.weight", weight, nn.init.normal_(torch.empty_like(weight), std=std))
    if gate._parameters.get("bias") is not None:
        bias = operation.parameter(name, "bias")
        operation.write(f"{name}.bias", bias, torch.zeros_like(bias))
    operation.attach(f"the gradient of {name}", gate.register_forward_hook(_balanced), "that of a balance loss added")


def _balanced(module: nn.Module, args: Any, logits: torch.Tensor) -> None:
    """Forward hook: add the gradient of experts * sum(load * mean chance), scaled to that of the logits."""
    if not logits.requires_grad:
        return
    chances = logits.detach().softmax(-1).flatten(0, -2)
    experts = chances.shape[-1]
    load = nn.functional.one_hot(chances.argmax(-1), experts).to(chances).mean(0)
    excess = (experts * (load * chances.mean(0)).sum() - 1).clamp(0, 1)
    push = chances * (load - (chances * load).sum(-1, keepdim=True))
    push = (excess * push / push.norm().clamp_min(1e-12)).view_as(logits)
    logits.register_hook(lambda gradient: gradient + 3 * gradient.norm() * push)
