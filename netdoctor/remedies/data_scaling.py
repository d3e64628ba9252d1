"""Weights scaled by what the layers really put out: layer-sequential unit variance."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.wording import names_code

LEAST = 1e-12  # std of an output below which no factor helps: the input does not reach it


def rescale_by_data(layers: Sequence[str]) -> Remedy:
    """Scale weights and biases of ``layers`` so that each puts out std 1 on the next batch; directions stay."""
    return Remedy(
        action="Scale each layer, in the order of execution, until its output has std 1 on a batch",
        code="def scale(layer, args, output):\n"
        "    for parameter in layer.parameters(recurse=False):\n"
        "        parameter.data /= output.std()\n"
        "    return output / output.std()\n"
        f"layers = [model.get_submodule(name) for name in {names_code(layers)}]\n"
        "hooks = [layer.register_forward_hook(scale) for layer in layers]\n"
        "with torch.no_grad():\n"
        "    model(x)\n"
        "for hook in hooks:\n"
        "    hook.remove()",
        source="Mishkin & Matas 2016, All you need is a good init, section 2",
        effect="the signal has the same scale in every layer, whatever stands between them",
        treatment=Procedure(functools.partial(_attach, layers=tuple(layers))),
    )


def _attach(operation: Operation, layers: Sequence[str]) -> None:
    """Let the next forward pass in training be preceded by one that scales the weights."""
    for name in layers:
        operation.parameter(name)  # or say that there is none

    def before_forward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training:
            handle.remove()
            _scale(operation, layers, args, kwargs)

    handle = operation.model.register_forward_pre_hook(before_forward, with_kwargs=True)
    operation.attach("weights", handle, "to be scaled at the next forward pass in training")


def _scale(operation: Operation, layers: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Scale now, by the outputs on this input; buffers and random numbers stay as they are."""
    model = operation.model
    names = {operation.module(name): name for name in layers}

    def after_forward(layer: nn.Module, args: Any, output: Any) -> Any:
        name = names.get(layer)
        std = float(output.float().std()) if isinstance(output, Tensor) else 0.0
        if name is None or not LEAST < std < float("inf"):
            return None
        del names[layer]  # shared layers are scaled by their first output
        for leaf, parameter in layer.named_parameters(recurse=False):
            operation.write(f"{name}.{leaf}", parameter, parameter.detach() / std)
        return output / std

    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    handles = [layer.register_forward_hook(after_forward) for layer in names]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model.forward(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)
