"""Recurrent layers that keep their state and its gradient over many steps."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from netdoctor.facts import Layer
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure


def orthogonal_recurrence(layer: Layer) -> Remedy:
    """Initialise recurrent weights orthogonally, those of input with Xavier; ReLU keeps what the identity keeps."""
    return Remedy(
        action="Initialise the recurrent weights orthogonally (with the identity before ReLU), the others with Xavier",
        code=f"layer = model.get_submodule({layer.name!r})\n"
        'rectified = getattr(layer, "nonlinearity", "") == "relu"\n'
        "for name, weight in layer.named_parameters():\n"
        '    if "weight_hh" in name:\n'
        "        for gate in weight.data.split(layer.hidden_size):\n"
        "            (nn.init.eye_ if rectified else nn.init.orthogonal_)(gate)\n"
        '    elif "weight_ih" in name:\n'
        "        nn.init.xavier_uniform_(weight)",
        source="Saxe et al. 2014, section 4; Le et al. 2015, A simple way to initialize recurrent networks",
        effect="states and gradients keep their size from step to step",
        treatment=Procedure(functools.partial(_orthogonal_recurrence, name=layer.name)),
    )


def _orthogonal_recurrence(operation: Operation, name: str) -> None:
    layer: Any = operation.module(name)
    rectified = getattr(layer, "nonlinearity", "") == "relu"
    for key, weight in layer.named_parameters(recurse=False):
        fresh = torch.empty_like(weight)
        if "weight_hh" in key:
            for gate in fresh.split(layer.hidden_size):
                nn.init.eye_(gate) if rectified else nn.init.orthogonal_(gate)
            operation.write(f"{name}.{key}", weight, fresh)
        elif "weight_ih" in key:
            operation.write(f"{name}.{key}", weight, nn.init.xavier_uniform_(fresh))


def remember(layer: Layer, length: int) -> Remedy:
    """Let a gated layer hold its state over ``length`` steps at first, by the bias of the gate that keeps it."""
    return Remedy(
        action=f"Let the gates keep their state over {length} steps at first: biases log(u), u from 1 to {length}",
        code=f"layer = model.get_submodule({layer.name!r})\n"
        "size = layer.hidden_size\n"
        "for name, bias in layer.named_parameters():\n"
        '    if "bias" in name:  # LSTM: the forget gate opens, the input gate closes; GRU: the update gate keeps\n'
        "        nn.init.zeros_(bias)\n"
        f"        keep = torch.rand(size, device=bias.device).mul({max(length - 2, 1)}).add(1).log()\n"
        '        if "bias_ih" in name:\n'
        "            bias.data[size : 2 * size] = keep\n"
        "            if isinstance(layer, nn.LSTM):\n"
        "                bias.data[:size] = -keep",
        source="Tallec & Ollivier 2018, Can recurrent neural networks warp time?; Jozefowicz et al. 2015, section 3",
        effect="the gradient at the first inputs is there from the first step on",
        treatment=Procedure(functools.partial(_remember, name=layer.name, length=length)),
    )


def _remember(operation: Operation, name: str, length: int) -> None:
    layer: Any = operation.module(name)
    for key, bias in layer.named_parameters(recurse=False):
        if "bias" in key:
            operation.write(f"{name}.{key}", bias, _keeping(layer, bias, length, "bias_ih" in key))


def _keeping(layer: nn.Module, bias: Tensor, length: int, of_input: bool) -> Tensor:
    """Biases of a gate that keeps the state over 1 to ``length`` steps: they stand in the one of two that add up."""
    fresh, size = torch.zeros_like(bias), len(bias) // (4 if isinstance(layer, nn.LSTM) else 3)
    if of_input:
        keep = torch.rand(size, device=bias.device).mul(max(length - 2, 1)).add(1).log()
        fresh[size : 2 * size] = keep
        if isinstance(layer, nn.LSTM):
            fresh[:size] = -keep
    return fresh


def gated(layer: Layer, length: int) -> Remedy:
    """Put a GRU in the place of a plain recurrent layer, with gates that hold the state over ``length`` steps."""
    keep = remember(layer, length)
    return Remedy(
        action="Use a GRU in place of the plain recurrent layer: its gates can carry the state over many steps",
        code=f"old = model.get_submodule({layer.name!r})\n"
        "new = nn.GRU(old.input_size, old.hidden_size, old.num_layers, old.bias, old.batch_first, old.dropout,\n"
        "             old.bidirectional)\n"
        f"model.set_submodule({layer.name!r}, new)  # before the optimizer is made\n{keep.code}",
        source=f"Cho et al. 2014, section 2.3; {keep.source}",
        effect=keep.effect,
        treatment=Procedure(functools.partial(_gated, name=layer.name, length=length)) if layer.type == "RNN" else None,
    )


def _gated(operation: Operation, name: str, length: int) -> None:
    old: Any = operation.module(name)
    form = (old.num_layers, old.bias, old.batch_first, old.dropout, old.bidirectional)
    weight = old.weight_hh_l0
    new = nn.GRU(old.input_size, old.hidden_size, *form, device=weight.device, dtype=weight.dtype)
    operation.replace(name, new)
    operation.exchange(dict(zip(old.parameters(), new.parameters(), strict=True)))
    _remember(operation, name, length)
