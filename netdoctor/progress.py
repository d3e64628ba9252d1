"""Whether the training gets anywhere: the gate that keeps gradient and unit alarms quiet on runs that learn."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from netdoctor.derived import derived, of_facts
from netdoctor.facts import Facts
from netdoctor.history import History
from netdoctor.trends import is_falling, noise

UNTOLD = "the loss does not tell of learning yet"  # why a rule that asks for progress has no verdict
FEWEST = 10  # losses: below, nothing is said
LEARNED = 0.1  # of the reference: so far below it, something was learned (DETECTORS: 0 of 22 healthy runs end above it)
LEAST = 0.02  # of the reference: a smaller gain counts from here on where it exceeds the noise (click rates, returns)
SIGMAS = 4.0  # standard errors that make a gain exceed the noise: 3e-5 one-sided, asked hundreds of times a run
WINDOW = 50  # losses: the last half of the run, at least so many, tells whether it falls
FALL = 0.005  # of the reference: a smaller fall over the window gets nowhere
EARLY = (5, 15)  # batches that tell a first constant, single samples as batches too
MOVED = 3.0  # times that constant's loss: where targets move, as a target network's, no constant stands for them
JUMP = 1.5  # times the first loss: where the mean of the first three exceeds it, the steps threw the model away

BY_OUTPUT = (  # losses whose best constant has a number for each output of a sample, not one for each class
    *("mse", "l1", "smooth-l1"),
    *("binary-cross-entropy", "binary-cross-entropy-with-logits"),
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Progress:
    """How far the training loss has come.

    Attributes:
        steps: Steps with a loss.
        start: Loss of the untrained model: mean of the first three steps, the first alone where the loss jumps.
        recent: Mean loss of the last tenth of the steps, at least 5.
        constant: Loss of the best constant prediction, None where unknown, or out of reach of so few parameters.
        falling: Whether the loss falls significantly, by what matters, over the last half of the run.
        error: Standard error of ``recent``.
    """

    steps: int
    start: float
    recent: float
    constant: float | None
    falling: bool
    error: float = 0.0

    @property
    def reference(self) -> float:
        """What must be beaten: the best constant prediction, else the loss at the start.

        Not the lower of the two: a pre-trained model that stays as good as it was has learned something.
        """
        return self.start if self.constant is None else self.constant

    @property
    def gain(self) -> float:
        """How far the loss is below the reference, as a share of it: 1 is a loss of 0, negative is above."""
        return (self.reference - self.recent) / abs(self.reference) if self.reference else -self.recent

    @property
    def learned(self) -> bool:
        """Whether the loss is clearly below the reference: by 10 %, or by 2 % and 4 standard errors."""
        bound = abs(self.reference)
        if self.constant is None:  # the start is one noisy value
            return self.reference - self.recent > max(LEARNED * bound, SIGMAS * self.error)
        return self.reference - self.recent > min(max(LEAST * bound, SIGMAS * self.error), LEARNED * bound)

    @property
    def stalled(self) -> bool:
        """Neither learned anything nor about to: the gate of alarms that only matter where training fails."""
        return not self.learned and not self.falling


@derived
def progress(history: History) -> Progress | None:
    """The training's progress, None where the loss does not tell of it.

    That is: fewer than 10 losses, optimizers that minimise different losses (a GAN), or a loss that goes to and fro
    around zero with no constant prediction to hold it against (a policy gradient's surrogate).
    """
    losses = history.series("loss")[1]
    if len(losses) < FEWEST or history.facts.several_losses:
        return None
    constants = history.series("constant_loss")[1]
    constant = float(constants[-1]) if len(constants) else None
    if constant is not None and len(constants) > EARLY[1]:
        constant = None if constant > MOVED * float(np.median(constants[slice(*EARLY)])) > 0 else constant
    constant = None if _too_few(history.facts) else constant
    half = losses[-max(WINDOW, len(losses) // 2) :]
    recent = losses[-max(5, len(losses) // 10) :]
    if constant is None and _surrogate(half):
        return None
    start = _start(history, losses)
    reference = start if constant is None else constant
    parts = max(len(half) // 5, 1)
    fall = float(half[:parts].mean() - half[-parts:].mean())
    return Progress(
        steps=int(history.series("loss")[0][-1]),
        start=start,
        recent=float(np.mean(recent, dtype=np.float64)),
        constant=constant,
        falling=fall > FALL * abs(reference) and is_falling(half),
        error=noise(half) / len(recent) ** 0.5,
    )


@of_facts
def _too_few(facts: Facts) -> bool:
    """Whether the model has fewer parameters than the best constant has numbers."""
    held = sum(parameter.size for parameter in facts.parameters)
    return facts.loss.kind in BY_OUTPUT and 0 < held < prod(facts.loss.outputs[1:])


def _start(history: History, losses: Floats) -> float:
    first = history.first("loss")[""]
    if history.table("loss").stride > 1:
        return first  # the first rows average over many steps by now
    mean = float(np.mean(losses[:3]))
    return first if abs(mean) > JUMP * abs(first) else mean


def _surrogate(losses: Floats) -> bool:
    """Whether the loss lies on both sides of zero, on each more than one time in ten."""
    return 0.1 < float(np.mean(losses > 0)) < 0.9


@derived
def loss_noise(history: History) -> float:
    """Standard deviation of the loss from step to step, without its trend."""
    return noise(history.series("loss")[1])


@derived
def chosen_weights(history: History) -> NDArray[np.int64]:
    """Columns of the table ``weight_rms`` that are trainable weights which began above zero."""
    kinds, first = {p.name: p for p in history.facts.parameters}, history.first("weight_rms")
    return np.array(
        [
            place
            for place, name in enumerate(history.columns("weight_rms"))
            if name in kinds and kinds[name].role == "weight" and kinds[name].trainable and first.get(name, 0.0) > 0
        ],
        np.int64,
    )


def weight_growth(history: History) -> tuple[list[str], Floats] | None:
    """Names of those weights and the rms of each over its first; None where nothing was measured twice."""
    table, chosen = history.table("weight_rms"), chosen_weights(history)
    if len(table) < 2 or not len(chosen):
        return None
    ratios = (table.values[-1, chosen] / table.first[chosen]).astype(np.float32)
    seen = np.isfinite(ratios)
    if not seen.any():
        return None
    return [table.columns[place] for place in chosen[seen]], ratios[seen]


@derived
def weight_updates(history: History) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Sampled steps, and in each the norm of the update over that of the weight: median and largest over the weights.

    Biases, norms, embeddings, frozen parameters and those that began at zero are left out: their ratio tells nothing.
    """
    table, chosen = history.table("update_ratio"), _updated(history)
    if not chosen:
        return table.steps[:0], np.zeros(0, np.float32), np.zeros(0, np.float32)

    def reduce(values: Floats) -> Floats:
        ratios = np.where(np.isfinite(values[:, chosen]), values[:, chosen], np.nan)
        ratios.sort(1)  # NaN last
        count = np.isfinite(ratios).sum(1)
        last = np.maximum(count - 1, 0)
        at = np.arange(len(ratios))
        median = (ratios[at, last // 2] + ratios[at, np.minimum(count // 2, last)]) / 2
        return np.stack((median, ratios[at, last]), 1)

    found = history.memory.by_row("weight updates", table, chosen, reduce)
    rows = np.isfinite(found[:, 0])
    return table.steps[rows], found[rows, 0], found[rows, 1]


@derived
def _updated(history: History) -> list[int]:
    """Columns of the table ``update_ratio`` whose ratio tells."""
    kinds, began = {p.name: p for p in history.facts.parameters}, history.first("weight_rms")
    return [
        place
        for place, name in enumerate(history.columns("update_ratio"))
        if (name not in kinds or (kinds[name].role == "weight" and kinds[name].trainable)) and began.get(name, 1.0) > 0
    ]


def first_updates(history: History) -> float:
    """Typical norm of an update over that of its weight before anything blew up, over the first steps; 0 unknown."""
    steps, medians, _ = weight_updates(history)
    early = medians[steps <= 5], medians[:10]
    return max((float(np.median(part)) for part in early if len(part)), default=0.0)
