"""Normalisation between a layer and its nonlinearity."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from torch import nn

from netdoctor.facts import Facts, Layer
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.sequences import put_behind

SMALL = 8  # samples a batch below which BatchNorm's statistics are noise (Wu & He 2018, figure 1)


def normalise(facts: Facts, layers: Sequence[str]) -> Remedy:
    """Put a normalisation behind each of ``layers``, before its nonlinearity."""
    put, said = [], []
    norms: dict[str, str] = {}
    for layer in map(facts.layer, layers):
        norm = _norm(facts, layer)
        if layer.kind in ("recurrent", "attention") or not layer.name:
            said.append(f"# after {layer.name or 'the model'}: {_call(norm, layer.units)}")
        else:
            norms[layer.name] = norm
            put.append(f'    "{layer.name}": {_call(norm, layer.units)},')
    if put:
        put = ["norms = {  # nn.LayerNorm in sequence models", *put, "}", "for name, norm in norms.items():"]
        put.append("    model.set_submodule(name, nn.Sequential(model.get_submodule(name), norm))")
        put.append('    optimizer.add_param_group({"params": norm.parameters()})')
    units = {name: facts.layer(name).units for name in norms}
    certain = bool(norms) and not said and all(_certain(facts.layer(name)) for name in layers)
    return Remedy(
        action="Normalise: BatchNorm (LayerNorm in sequence models) between each layer and its nonlinearity",
        code="\n".join([*put, *said]),
        source="Ioffe & Szegedy 2015, section 3; Ba et al. 2016",
        effect="every layer sees inputs of zero mean and unit variance, whatever the layers before it do",
        treatment=Procedure(functools.partial(_normalise, norms=norms, known=units)) if certain else None,
    )


def _norm(facts: Facts, layer: Layer) -> str:
    """Name of the class: BatchNorm over a batch of rows or images, LayerNorm over sequences and tiny batches."""
    small = 0 < facts.batch < SMALL
    if layer.kind == "conv":
        return (
            "GroupNorm"
            if small
            else layer.type.replace("Conv", "BatchNorm").replace("Transpose", "").replace("Lazy", "")
        )
    sequence = 0 < facts.batch < layer.samples or layer.kind in ("recurrent", "attention")
    return "LayerNorm" if small or sequence else "BatchNorm1d"


def _call(norm: str, units: int) -> str:
    """Code that makes it."""
    return f"nn.{norm}({'1, ' if norm == 'GroupNorm' else ''}{units})"


def _certain(layer: Layer) -> bool:
    """Whether the output's shape is known, and it goes nowhere but into the next layer."""
    return layer.kind in ("linear", "conv") and layer.samples > 0 and not layer.residual


def _normalise(operation: Operation, norms: Mapping[str, str], known: Mapping[str, int]) -> None:
    fresh = {}
    for name, kind in norms.items():
        layer, weight = operation.module(name), operation.parameter(name)
        units = int(getattr(layer, "out_channels", 0) or getattr(layer, "out_features", 0) or known[name])
        norm = nn.GroupNorm(1, units) if kind == "GroupNorm" else getattr(nn, kind)(units)
        norm.to(device=weight.device, dtype=weight.dtype)
        put_behind(operation, name, norm)
        fresh[name] = norm
    if operation.optimizer is None:
        operation.notes.append("Give the new parameters to the optimizer: build it from model.parameters() anew")
        return
    for name, norm in fresh.items():
        new = [(f"norm of {name}.{leaf}", parameter) for leaf, parameter in norm.named_parameters()]
        operation.hold(new, like=operation.parameter(name))
