"""Questions about the graph of layers and the state they were found in, that several rules ask of the facts."""

from __future__ import annotations

import math

import numpy as np

from netdoctor.derived import derived, of_facts
from netdoctor.facts import Facts, Layer, Parameter
from netdoctor.history import History

SIGMAS = 4.0  # standard errors of a sampled standard deviation that still count as equal
SAMPLED = 32  # rows, and columns, of a weight that are sampled at most


def is_batch_norm(layer: Layer) -> bool:
    """Whether it normalises over the batch, and by what it has gathered in evaluation mode."""
    return layer.kind == "norm" and "BatchNorm" in layer.type


@derived
def switched_off(history: History) -> set[str]:
    """Norm and dropout layers that ran in evaluation mode in the last sampled step."""
    table = history.table("evaluation_mode")
    return {table.columns[place] for place in np.flatnonzero(table.values[-1] == 1)} if len(table) else set()


@of_facts
def consumers(facts: Facts) -> dict[str, list[Layer]]:
    """Layers that each layer's output reaches with no other layer between."""
    found: dict[str, list[Layer]] = {}
    for layer in facts.layers:
        for source in layer.inputs:
            found.setdefault(source, []).append(layer)
    return found


def width(facts: Facts, layer: Layer) -> int:
    """Units that come into a layer without weights: those of the nearest layer before it that has some; 0 unknown."""
    layers = {each.name: each for each in facts.layers}
    for _ in range(len(layers)):
        if layer.units or not layer.inputs or layer.inputs[0] not in layers:
            break
        layer = layers[layer.inputs[0]]
    return layer.units


def taps(weight: Parameter) -> int:
    """Places of a convolution's kernel; 1 of a linear layer."""
    return math.prod(weight.shape[2:])


def inputs(layer: Layer, weight: Parameter) -> int:
    """Units that a linear layer or a convolution takes."""
    return weight.shape[1] * groups(layer, weight) if len(weight.shape) > 1 else 0


def groups(layer: Layer, weight: Parameter) -> int:
    """Groups of a convolution; 1 of a linear layer."""
    return max(layer.units * taps(weight) // max(layer.fan_out, 1), 1) if layer.kind == "conv" else 1


def untrained(history: History, weight: Parameter) -> bool:
    """Whether a weight was found with the standard deviation of torch's own initialisation, as sampled.

    Linear layers and convolutions: uniform, variance 1/(3 fan-in). Recurrent ones: uniform in 1/sqrt(hidden units).
    Queries, keys and values of attention: Xavier. Training, and any other initialisation, leave another one.
    """
    table = history.table("weight_std")
    if weight.name not in table.columns or len(weight.shape) < 2:
        return False
    std = float(table.first[table.place[weight.name]])
    owners = (weight.layer, weight.layer.rpartition(".")[0])  # attention owns the layer that it ends in
    kind = next((layer.kind for layer in history.facts.layers if layer.name in owners), "")
    fan_in = math.prod(weight.shape[1:])
    wanted = 1 / math.sqrt(3 * fan_in)
    if kind == "recurrent":
        wanted = 1 / math.sqrt(3 * max(history.facts.layer(weight.layer).units, 1))
    elif kind == "attention" and "proj_weight" in weight.name:
        wanted = math.sqrt(2 / (weight.shape[0] + fan_in))
    elif kind not in ("linear", "conv", "attention"):
        return False
    count = min(weight.shape[0], SAMPLED) * min(fan_in, SAMPLED)
    error = math.sqrt(0.2 / count) + 0.005  # of a uniform distribution's; the rest for the sums' rounding
    return abs(std / wanted - 1) < SIGMAS * error
