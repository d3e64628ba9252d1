"""What steps promise, the loss that each takes off to first order, against the loss that there is.

On a quadratic loss L of curvature h, gradient descent at rate η promises 2ηh·L: from 4·L on it lands higher on the
other side (ηh ≥ 2). Where gradients are noise the loss levels off a quarter of the promise above its minimum, for the
noise takes back what each step gains (Bottou, Curtis and Nocedal 2018, theorem 4.6; Mandt et al. 2017, section 3).
Momentum μ adds up the steps: 1 / (1 − μ) times as far. Both hold along the directions that the gradients point to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import Facts
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.trends import is_flat, noise

Floats = NDArray[np.float64]
PROMISE = 4.0  # times the loss: the promise of a step as long as the stable ones are at most, see above
FEWEST = 8  # samples that tell the mean promise: a single one scatters as the square of the gradient


def momentum(facts: Facts) -> float:
    """Of the optimizer: the median of its param groups; Adam's first beta counts as one."""
    return float(np.median([group.momentum for group in facts.groups])) if facts.groups else 0.0


def reference(history: History) -> float:
    """What there is to lose: the loss of the best constant prediction, else the first loss; its magnitude."""
    constants = history.series("constant_loss")[1]
    return abs(float(constants[-1])) if len(constants) else abs(history.first("loss").get("", 0.0))


def overshoot(history: History) -> tuple[NDArray[np.int64], Floats]:
    """Sampled steps, and what each promises over what a stable step promises at most: above 1 it lands higher.

    The loss is that of the step, or of the best constant prediction where that is larger: steps that are large against
    a loss near 0 do no harm. Empty where the loss has no bound at 0 to be held against, or is not known.
    """
    steps, gains = history.series("step_gain")
    table = history.table("loss")
    least = reference(history)
    if not len(steps) or not len(table) or least == 0 or history.facts.several_losses:
        return steps[:0], np.zeros(0)
    losses = table.values[:, 0].astype(np.float64)
    finite = np.isfinite(losses)
    if not finite.any() or (losses[finite] < 0).any():
        return steps[:0], np.zeros(0)
    rows = np.minimum(np.searchsorted(table.steps, steps), len(losses) - 1)
    seen = finite[rows]
    return steps[seen], gains[seen] / (PROMISE * np.maximum(losses[rows[seen]], least))


def lasting(ratios: Floats, width: int = 5) -> Floats:
    """The median of each reading and up to ``width`` − 1 before it, from the third one on."""
    return np.array([np.median(ratios[max(0, i - width + 1) : i + 1]) for i in range(2, len(ratios))])


@dataclass(frozen=True)
class Plateau:
    """Steps that go nowhere.

    Attributes:
        since: Its first step.
        until: Its last one, the latest.
        level: Mean loss.
        noise: Standard deviation of the loss from step to step.
        excess: How far the steps themselves hold the loss up, from what they promise; in the unit of the loss.
        cosine: Mean cosine of successive gradients.
        rate: The learning rate; the largest of the param groups, 0 where unknown.
    """

    since: int
    until: int
    level: float
    noise: float
    excess: float
    cosine: float
    rate: float


def plateau(history: History, tails: tuple[float, ...], shortest: int, least: float) -> Plateau | None:
    """The longest stretch up to now without trend at a constant learning rate; None where there is none.

    Args:
        history: Of a run with one loss.
        tails: Shares of the run that it may take up, from the end, the largest first.
        shortest: Losses in it at least.
        least: Excess of interest, a share of what there is to lose: below, nothing more is asked.
    """
    steps, losses = history.series("loss")
    when, gains = history.series("step_gain")
    share = PROMISE * (1 - momentum(history.facts))
    table = history.table("learning_rate")
    rates = np.nan_to_num(table.values).max(1, initial=0.0)
    for tail in tails:
        count = int(tail * len(losses))
        if count < shortest:
            break
        since = int(steps[-count])
        inside = gains[when >= since]
        if len(inside) < FEWEST or share == 0:
            continue
        excess = float(np.mean(inside, dtype=np.float64)) / share
        if excess < least * reference(history):
            continue
        constant = rates[table.steps >= since]
        if len(constant) and np.ptp(constant) > 0.05 * constant.max():
            continue
        values = losses[-count:]
        if not is_flat(values):
            continue
        seen, cosines = history.series("cosine")
        cosines = cosines[seen >= since]
        return Plateau(
            since=since,
            until=int(steps[-1]),
            level=float(np.mean(values, dtype=np.float64)),
            noise=noise(values),
            excess=excess,
            cosine=float(np.mean(cosines)) if len(cosines) else 0.0,
            rate=float(rates[-1]) if len(rates) else 0.0,
        )
    return None


def bounces(history: History, least: float, share: float = 0.6, shortest: int = 60) -> Plateau | None:
    """A plateau of most of the run that the steps themselves hold up by ``least`` of what there is to lose."""
    run = progress(history)
    return None if run is None or run.falling else plateau(history, (0.75, share), shortest, least)
