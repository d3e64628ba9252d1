"""Both ends of a model: the layers that its input passes first, and what stands between the last one and the loss."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import WEIGHTED, Facts, Layer, Loss
from netdoctor.history import History
from netdoctor.nodes import FUNCTIONS, LOSSES, RESHAPING

MOVING = RESHAPING | {
    f"{name}Backward{version}"
    for name in ("Transpose", "Permute", "T", "Select", "Slice", "Index", "MaskedSelect", "Expand", "Unbind")
    for version in (0, 1)
}  # what gives the next operation the same numbers, or some of them
CLAMPED = "ClampMinBackward0"  # a ReLU only where its bound is 0, which the node's name does not tell
LOGARITHM = "LogBackward0"


@dataclass(frozen=True)
class Head:
    """What stands between the last layer and the loss.

    Attributes:
        functions: Nonlinearities applied directly to the layer's output, the layer first; those of the loss too
            ("log_softmax" of a cross-entropy).
        meets: Name of the autograd node that takes the last one's result; of a logarithm, whatever is added before.
    """

    functions: tuple[str, ...] = ()
    meets: str = ""


def head(loss: Loss) -> Head:
    """What stands between the last layer and the loss."""
    functions: list[str] = []
    nodes = loss.nodes[::-1]
    for place, name in enumerate(nodes):
        if name in FUNCTIONS and name != CLAMPED:
            functions.append(FUNCTIONS[name])
        elif name not in MOVING:
            constant = name == "AddBackward0" and nodes[place + 1 : place + 2] == (LOGARITHM,)
            return Head(tuple(functions), LOGARITHM if constant else name)
    return Head(tuple(functions))


def facing(loss: Loss) -> str:
    """The nonlinearity whose result the loss takes as it is, whatever is below it; "" where there is none."""
    names = loss.nodes
    softmax = "LogSoftmaxBackward0"
    own = (softmax,) if loss.kind == "cross-entropy" else tuple(LOSSES) if names and set(names) & set(LOSSES) else ()
    own = own or ("SubBackward0",)  # where a loss written by hand compares values
    place = next((index for index, name in enumerate(names) if name in own), len(names))
    below = next((name for name in names[place + 1 :] if name not in MOVING), "")
    return FUNCTIONS.get(below, "") if below != CLAMPED else ""


def first_layers(facts: Facts, kinds: Collection[str] = WEIGHTED) -> Iterator[Layer]:
    """Layers of ``kinds`` that take the model's input; behind layers without a gradient the graph does not tell."""
    frozen = {parameter.layer for parameter in facts.parameters if parameter.connected is False}
    for layer in facts.layers:
        if layer.called and not layer.inputs and layer.kind in kinds:
            yield layer
        if layer.name in frozen or not layer.called:
            return


def output_module(facts: Facts, function: str) -> Layer | None:
    """The module that applies ``function`` to the output of the last layer; None where forward() or the loss does."""
    for layer in facts.layers:
        applied = layer.kind == "activation" and layer.called and layer.function == function
        if applied and layer.inputs == (facts.loss.layer,):
            return layer
    return None


def last_layers(facts: Facts, function: str = "") -> tuple[str, ...]:
    """Names of the last layer and of the module that applies ``function`` to it, as far as they are known."""
    known = {layer.name for layer in facts.layers}
    module = output_module(facts, function)
    names = (facts.loss.layer, *(() if module is None else (module.name,)))
    return tuple(name for name in names if name and name in known)


def spread_over_batch(history: History, what: str, layer: str) -> NDArray[np.float64]:
    """Std over the batch, at each position and unit, over the rms, in each thorough sample; 0 where all is zero.

    Args:
        history: Of the run.
        what: "input" or "activation", the output.
        layer: Whose.
    """
    steps, signals = history.series(f"{what}_batch_signal", layer)
    at, levels = history.series(f"{what}_rms", layer)
    if not len(steps) or not len(at):
        return np.zeros(0)
    near = levels[np.clip(np.searchsorted(at, steps), 0, len(at) - 1)]
    return np.asarray(signals / np.maximum(near, 1e-30), np.float64)
