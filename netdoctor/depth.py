"""How gradients change over the depth of a model: what vanishing and exploding have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netdoctor.derived import derived
from netdoctor.facts import WEIGHTED
from netdoctor.history import History

Array = NDArray[np.float64]


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
def profile(history: History, *, last: int = 8, fewest: int = 3) -> Profile | None:
    """Gradients over the depth in the ``last`` samples; None with fewer than ``fewest`` samples or 3 weight layers.

    Left out: biases, norms, embeddings, what is frozen, without gradient, zero at the start or not part of the loss.
    """
    facts = history.facts
    table, started = history.table("gradient_rms"), history.first("weight_rms")
    columns = {name: index for index, name in enumerate(table.columns)}
    weights: dict[str, int] = {}
    for parameter in facts.parameters:
        usable = parameter.role == "weight" and parameter.trainable and parameter.connected is not False
        if usable and parameter.name in columns and started.get(parameter.name, 1.0) > 0:
            weights.setdefault(parameter.layer, columns[parameter.name])
    names = [layer.name for layer in facts.layers if layer.kind in WEIGHTED and layer.name in weights]
    outputs = history.table("activation_gradient_rms")
    places = {name: index for index, name in enumerate(outputs.columns)}
    window = table.values[-last:]
    if len(window) < fewest or len(names) < 3:
        return None
    middle = _medians(window[:, [weights[name] for name in names]])
    seen = np.flatnonzero(np.isfinite(middle))
    if len(seen) < 3:
        return None
    at_outputs = np.full(len(seen), np.nan)
    known = [index for index, place in enumerate(seen) if names[place] in places]
    if known and len(outputs):
        at_outputs[known] = _medians(outputs.values[-last:, [places[names[seen[index]]] for index in known]])
    steps = (int(table.steps[-len(window)]), int(table.steps[-1]))
    return Profile(tuple(names[place] for place in seen), middle[seen], at_outputs, steps, len(window))


def _medians(values: NDArray[np.float32]) -> Array:
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
