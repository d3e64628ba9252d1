"""Whether the training gets anywhere: the gate that keeps gradient and unit alarms quiet on runs that learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netdoctor.history import History
from netdoctor.trends import is_falling, noise

LEARNED = 0.9  # of the reference loss: below it, something was learned (DETECTORS: 0 of 22 healthy runs end above it)


@dataclass(frozen=True)
class Progress:
    """How far the training loss has come.

    Attributes:
        steps: Steps with a loss.
        start: Mean loss of the first steps.
        recent: Mean loss of the last tenth of the steps, at least 5.
        constant: Loss of the best constant prediction, None where unknown.
        falling: Whether the loss falls significantly over the last half of the run.
    """

    steps: int
    start: float
    recent: float
    constant: float | None
    falling: bool

    @property
    def reference(self) -> float:
        """What must be beaten: the best constant prediction, else the loss at the start."""
        return self.start if self.constant is None else min(self.start, self.constant)

    @property
    def learned(self) -> bool:
        """Whether the loss is clearly below the reference."""
        return self.recent < self.reference - (1 - LEARNED) * abs(self.reference)

    @property
    def stalled(self) -> bool:
        """Neither learned anything nor about to: the gate of alarms that only matter where training fails."""
        return not self.learned and not self.falling


def progress(history: History) -> Progress | None:
    """The training's progress, None while there are fewer than 10 losses or where optimizers minimise different ones."""
    steps, losses = history.series("loss")
    if len(losses) < 10 or history.facts.several_losses:
        return None
    recent = losses[-max(5, len(losses) // 10) :]
    _, constants = history.series("constant_loss")
    return Progress(
        steps=int(steps[-1]),
        start=float(np.mean(losses[:3])),
        recent=float(np.mean(recent)),
        constant=float(constants[-1]) if len(constants) else None,
        falling=is_falling(losses[len(losses) // 2 :]),
    )


def loss_noise(history: History) -> float:
    """Standard deviation of the loss from step to step, without its trend."""
    return noise(history.series("loss")[1])
