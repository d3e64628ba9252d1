"""What steps promise, the loss that each takes off to first order, against the loss that there is.

On a quadratic loss L of curvature h, gradient descent at rate η promises 2ηh·L: from 4·L on it lands higher on the
other side (ηh ≥ 2). Where gradients are noise the loss levels off a quarter of the promise above its minimum, for the
noise takes back what each step gains (Bottou, Curtis and Nocedal 2018, theorem 4.6; Mandt et al. 2017, section 3).
Momentum μ adds up the steps: 1 / (1 − μ) times as far. Both hold along the directions that the gradients point to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from netdoctor.derived import derived
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


@derived
def reference(history: History) -> float:
    """What there is to lose: the loss of the best constant prediction, else the first loss; its magnitude.

    As it was for the first batches: targets that a model makes itself may grow with what it loses.
    """
    constants = history.series("constant_loss")[1][:64]
    return abs(float(np.nanmedian(constants))) if len(constants) else abs(history.first("loss").get("", 0.0))


@derived
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


@derived
def lasting_overshoot(history: History) -> Floats:
    """`lasting` of the `overshoot`."""
    return lasting(overshoot(history)[1])


@derived
def highest_rates(history: History) -> Floats:
    """The largest learning rate of all param groups in each sample."""
    table = history.table("learning_rate")
    return history.memory.by_row("rates", table, None, lambda rows: np.nan_to_num(rows).max(1, initial=0.0))


def lasting(ratios: Floats, width: int = 5) -> Floats:
    """The median of each reading and up to ``width`` − 1 before it, from the third one on."""
    starting = [np.median(ratios[: i + 1]) for i in range(2, min(width - 1, len(ratios)))]
    full = np.median(sliding_window_view(ratios, width), axis=1) if len(ratios) >= width else ratios[:0]
    return np.concatenate((np.asarray(starting, np.float64), full))


@dataclass(frozen=True)
class Plateau:
    """Steps that go nowhere.

    Attributes:
        since: Its first step.
        until: Its last one, the latest.
        level: Mean loss.
        noise: Standard deviation of the loss from step to step.
        excess: How far the steps themselves hold the loss up, from what they promise; in the unit of the loss.
        typical: The same from the median promise, which single large gradients do not move.
        ending: Mean loss of its last quarter over ``level``.
        halves: Mean loss of its second half over that of its first.
        cosine: Mean cosine of successive gradients.
        rate: The learning rate; the largest of the param groups, 0 where unknown.
    """

    since: int
    until: int
    level: float
    noise: float
    excess: float
    typical: float
    ending: float
    halves: float
    cosine: float
    rate: float


@derived
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
    share, matters = PROMISE * (1 - momentum(history.facts)), reference(history)
    if not matters or not share or not (len(history.table("constant_loss")) or losses.min(initial=np.inf) > 0):
        return None
    table = history.table("learning_rate")
    rates = highest_rates(history)
    for tail in tails:
        count = int(tail * len(losses))
        if count < shortest:
            break
        since = int(steps[-count])
        inside = gains[when >= since]
        excess = float(np.mean(inside, dtype=np.float64)) / share if len(inside) >= FEWEST else 0.0
        if not excess >= least * matters > 0:
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
            level=_mean(values),
            noise=noise(values),
            excess=excess,
            typical=float(np.median(inside)) / share,
            ending=_mean(values[-(count // 4) :]) / _mean(values),
            halves=_mean(values[count // 2 :]) / _mean(values[: count // 2]),
            cosine=float(np.mean(cosines)) if len(cosines) else 0.0,
            rate=float(rates[-1]) if len(rates) else 0.0,
        )
    return None


def _mean(values: NDArray[np.float32]) -> float:
    return float(np.mean(values, dtype=np.float64))


def bounces(
    history: History,
    least: float,
    *,
    tails: tuple[float, ...] = (0.75, 0.6),  # shares of the run: healthy runs that looked level took up half of it
    shortest: int = 60,  # losses
    agreeing: float = 0.25,  # cosine of successive gradients: above, they lead somewhere
    swing: float = 0.1,  # of the level: less noise from step to step is no bouncing
    fallen: float = 0.85,  # last quarter over the level, second half over the first: below, it falls behind the noise
    errors: float = 2.0,  # standard errors by which the second half may be below the first: falls beyond it are real
) -> Plateau | None:
    """A plateau of most of the run that the steps themselves hold up by ``least`` of what there is to lose."""
    run = progress(history)
    level = None if run is None or run.falling else plateau(history, tails, shortest, least)
    if level is None or level.typical < least * reference(history) or level.cosine > agreeing:
        return None
    error = 2 * level.noise / max(level.level, 1e-30) / max(level.until - level.since, 1) ** 0.5  # of the halves' ratio
    level_still = min(level.ending, level.halves) > fallen and level.halves > 1 - errors * error
    return level if level_still and level.noise > swing * level.level else None
