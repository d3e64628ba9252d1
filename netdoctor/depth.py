"""How gradients change over the depth of a model: what vanishing and exploding have in common."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        return self.weights / self._late(self.weights)

    @property
    def output_ratio(self) -> Array:
        """Gradient at each layer's output over that of the last layers."""
        return self.outputs / self._late(self.outputs)

    @staticmethod
    def _late(values: Array) -> float:
        late = values[-min(3, (len(values) + 1) // 2) :]
        late = late[np.isfinite(late)]
        return float(np.median(late)) if len(late) else float("nan")


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a reading are NaN, which is meant
        window = table.values[-last:]
        middle = np.nanmedian(np.where(np.isfinite(window), window, np.nan), 0) if len(window) else np.zeros(0)
        seen = [name for name in names if np.isfinite(middle[weights[name]])]
        if len(seen) < 3 or len(window) < fewest:
            return None
        at_outputs = np.full(len(seen), np.nan)
        known = [index for index, name in enumerate(seen) if name in places]
        if known and len(outputs):
            chosen = outputs.values[-last:, [places[seen[index]] for index in known]]
            at_outputs[known] = np.nanmedian(np.where(np.isfinite(chosen), chosen, np.nan), 0)
    return Profile(
        tuple(seen),
        middle[[weights[name] for name in seen]].astype(float),
        at_outputs,
        (int(table.steps[-len(window)]), int(table.steps[-1])),
        len(window),
    )
