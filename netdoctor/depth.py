"""How gradients change over the depth of a model: what vanishing and exploding have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netdoctor.derived import derived
from netdoctor.facts import WEIGHTED
from netdoctor.history import History

Array = NDArray[np.float64]
LAST = 8  # samples whose median is taken
FEWEST = 3  # samples, and layers: with fewer there is no profile


@dataclass(frozen=True)
class Profile:
    """Typical gradients of the weight layers of the main chain, the first executed layer first.

    Attributes:
        layers: Their names.
        weights: Median root mean square of the gradient of each layer's weight.
        outputs: The same of the loss's gradient at each layer's output; NaN where not seen.
        steps: First and last step of the readings.
        samples: Number of readings.
    """

    layers: tuple[str, ...]
    weights: Array
    outputs: Array
    steps: tuple[int, int]
    samples: int

    @property
    def ratio(self) -> Array:
        """Weight gradient of each layer over that of the last layers: the median of the last three."""
        return _over(self.weights, _late(self.weights))

    @property
    def output_ratio(self) -> Array:
        """Gradient at each layer's output over that of the last layers."""
        return _over(self.outputs, _late(self.outputs))


@derived
def profile(history: History) -> Profile | None:
    """Gradients over the depth in the last samples; None with fewer than 3 samples or weight layers.

    Left out: biases, norms, embeddings, what is frozen, without gradient, zero at the start or not part of the loss.
    """
    names, weights, places = _chain(history)
    table, outputs = history.table("gradient_rms"), history.table("activation_gradient_rms")
    window = table.values[-LAST:]
    if min(len(window), len(names)) < FEWEST:
        return None
    middle = medians(window[:, weights])
    seen = np.flatnonzero(np.isfinite(middle))
    if len(seen) < FEWEST:
        return None
    at_outputs = np.full(len(seen), np.nan)
    known = places[seen] >= 0
    if known.any() and len(outputs):
        at_outputs[known] = medians(outputs.values[-LAST:, places[seen][known]])
    steps = (int(table.steps[-len(window)]), int(table.steps[-1]))
    return Profile(tuple(names[place] for place in seen), middle[seen], at_outputs, steps, len(window))


@derived
def _chain(history: History) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The weight layers, and where their weights' and outputs' gradients stand in the tables; −1 for not at all."""
    columns, outputs = (
        {name: place for place, name in enumerate(history.columns(statistic))}
        for statistic in ("gradient_rms", "activation_gradient_rms")
    )
    started, weights = history.first("weight_rms"), dict[str, int]()
    for parameter in history.facts.parameters:
        usable = parameter.role == "weight" and parameter.trainable and parameter.connected is not False
        if usable and parameter.name in columns and started.get(parameter.name, 1.0) > 0:
            weights.setdefault(parameter.layer, columns[parameter.name])
    names = [layer.name for layer in history.facts.layers if layer.kind in WEIGHTED and layer.name in weights]
    return (
        names,
        np.array([weights[name] for name in names], np.int64),
        np.array([outputs.get(name, -1) for name in names], np.int64),
    )


def medians(values: NDArray[np.floating[Any]]) -> Array:
    """Median of the finite readings of each column, NaN where there are none."""
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan).astype(float), 0)  # NaN comes last
    count = np.isfinite(ordered).sum(0)
    columns = np.arange(values.shape[1])
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, np.maximum(count - 1, 0))
    return np.asarray((ordered[low, columns] + ordered[high, columns]) / 2)


def _late(values: Array) -> float:
    """Median of the last three layers, of fewer in a short chain."""
    late = values[-min(3, (len(values) + 1) // 2) :]
    late = late[np.isfinite(late)]
    return float(np.median(late)) if len(late) else float("nan")


def _over(values: Array, reference: float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(values / reference)
