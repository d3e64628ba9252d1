"""How far recurrent layers look back, where the model answers from their last state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netdoctor.facts import Layer
from netdoctor.history import History

RECENT = 2  # thorough samples that must agree


@dataclass(frozen=True)
class Memory:
    """A recurrent layer whose last state alone is used.

    Attributes:
        layer: Its facts.
        length: Steps of a sequence, 0 where unknown.
        ratio: Gradient of the last state by the first inputs over that by the last ones, the larger of the latest two.
        start: The first reading of it.
        steps: First and last step of these.
    """

    layer: Layer
    length: int
    ratio: float
    start: float
    steps: tuple[int, int]

    @property
    def factor(self) -> float:
        """By which the gradient changes from step to step; 0 where the length is unknown."""
        return float(max(self.ratio, 1e-45) ** (1 / (self.length - 1))) if self.length > 1 else 0.0


def shortest_memory(history: History, unused: float = 0.9) -> Memory | None:
    """The recurrent layer that looks back least, None where none is read from its last state alone.

    Args:
        history: The run.
        unused: Share of zeros in the loss's gradient at the outputs from which the states before the last are unused.
    """
    table, facts = history.table("time_gradient"), history.facts
    zeros = history.first("gradient_zero_share")
    rows = table.values[-RECENT:]
    if len(rows) < RECENT:
        return None
    found = []
    for place, name in enumerate(table.columns):
        layer, ratio = facts.layer(name), float(rows[:, place].max())
        if np.isfinite(ratio) and zeros.get(name, 1.0) >= unused:
            length = layer.samples // facts.batch if facts.batch else 0
            steps = int(table.steps[-len(rows)]), int(table.steps[-1])
            found.append(Memory(layer, length, ratio, float(table.first[place]), steps))
    return min(found, key=lambda memory: memory.ratio, default=None)
