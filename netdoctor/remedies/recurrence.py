"""Recurrent layers that keep their state and its gradient over many steps."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from netdoctor.facts import Layer
from netdoctor.findings import Remedy


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
        treatment=functools.partial(_orthogonal_recurrence, name=layer.name),
    )


def _orthogonal_recurrence(model: nn.Module, optimizer: Any, *, name: str) -> None:
    layer: Any = model.get_submodule(name)
    rectified = getattr(layer, "nonlinearity", "") == "relu"
    for key, weight in layer.named_parameters(recurse=False):
        if "weight_hh" in key:
            for gate in weight.data.split(layer.hidden_size):
                nn.init.eye_(gate) if rectified else nn.init.orthogonal_(gate)
        elif "weight_ih" in key:
            nn.init.xavier_uniform_(weight)
    _forget(layer, optimizer)


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
        treatment=functools.partial(_remember, name=layer.name, length=length),
    )


def _remember(model: nn.Module, optimizer: Any, *, name: str, length: int) -> None:
    layer: Any = model.get_submodule(name)
    size = layer.hidden_size
    with torch.no_grad():
        for key, bias in layer.named_parameters(recurse=False):
            if "bias" in key:
                bias.zero_()
                if "bias_ih" in key:
                    keep = torch.rand(size, device=bias.device).mul(max(length - 2, 1)).add(1).log()
                    bias[size : 2 * size] = keep
                    if isinstance(layer, nn.LSTM):
                        bias[:size] = -keep
    _forget(layer, optimizer)


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
        treatment=functools.partial(_gated, name=layer.name, length=length) if layer.type == "RNN" else None,
    )


def _gated(model: nn.Module, optimizer: Any, *, name: str, length: int) -> None:
    old: Any = model.get_submodule(name)
    form = (old.num_layers, old.bias, old.batch_first, old.dropout, old.bidirectional)
    weight = old.weight_hh_l0
    new = nn.GRU(old.input_size, old.hidden_size, *form, device=weight.device, dtype=weight.dtype)
    new.train(old.training)
    model.set_submodule(name, new)
    _remember(model, None, name=name, length=length)
    fresh = dict(zip(map(id, old.parameters()), new.parameters(), strict=True))
    for group in optimizer.param_groups if optimizer is not None else ():
        group["params"] = [fresh.get(id(parameter), parameter) for parameter in group["params"]]
    _forget(old, optimizer)


def _forget(layer: nn.Module, optimizer: Any) -> None:
    """Moments of the old weights would undo the new ones."""
    for parameter in layer.parameters(recurse=False) if optimizer is not None else ():
        optimizer.state.pop(parameter, None)
