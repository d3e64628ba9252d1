"""Formats with the range that the numbers need."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from netdoctor.facts import Facts
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure

HALVES = (torch.bfloat16, torch.float16)


def autocast_to_bfloat16(facts: Facts) -> Remedy:
    """Let autocast use bfloat16, which has the range of float32, in place of float16."""
    return Remedy(
        action="Use bfloat16 in place of float16: it has the range of float32, and needs no scaler",
        code="with torch.autocast(x.device.type, dtype=torch.bfloat16):\n    loss = loss_fn(model(x), y)",
        source="Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training",
        effect="numbers down to 1e-38 and up to 3e38 are kept; on GPUs from Ampere on at full speed",
        treatment=Procedure(_autocast_to_bfloat16),
    )


def _autocast_to_bfloat16(operation: Operation) -> None:
    """Change autocast's type whenever the model is called inside it."""
    handle = operation.model.register_forward_pre_hook(_to_bfloat16)
    operation.attach("the format that autocast uses in the model", handle, "bfloat16")


def _to_bfloat16(module: nn.Module, args: Any) -> None:
    device = next(module.parameters()).device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        torch.set_autocast_dtype(device, torch.bfloat16)  # until autocast's end, which puts back what was before
        torch.clear_autocast_cache()


def weights_in_float32(kind: str) -> Remedy:
    """Keep the weights in float32 and compute in half precision by autocast."""
    dtype = kind if kind in ("float16", "bfloat16") else "bfloat16"
    return Remedy(
        action="Keep the weights in float32, and compute in half precision by autocast alone",
        code=f"model.float()  # before the optimizer is made\n"
        f"with torch.autocast(x.device.type, dtype=torch.{dtype}):\n    loss = loss_fn(model(x), y)",
        source="Micikevicius et al. 2018, section 3.1",
        effect="steps of a ten-millionth of a weight still count",
        treatment=Procedure(_weights_in_float32),
    )


def _weights_in_float32(operation: Operation) -> None:
    """In place; what is given to the model in half precision is converted likewise."""
    model = operation.model
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype in HALVES:
            operation.convert(name, tensor, torch.float32)
    handle = model.register_forward_pre_hook(_given_in_float32)
    operation.attach("inputs in half precision", handle, "converted to float32")


def _given_in_float32(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.float() if isinstance(a, torch.Tensor) and a.dtype in HALVES else a for a in args)
