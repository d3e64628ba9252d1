"""The learning rate is so large that steps overshoot, and the loss bounces, rises or is lost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import Facts, Group, Loss, Parameter
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.gains import highest_rates, lasting_overshoot, momentum
from netdoctor.history import History
from netdoctor.progress import progress, weight_updates
from netdoctor.remedies import ADAPTIVE, both, from_the_start, reduce_on_plateau, scale_learning_rate, warm_up
from netdoctor.rules.base import rule
from netdoctor.trends import block_means, noise


@rule(
    Severity.WARNING,
    explains=(
        "weight-growth",
        "logit-growth",
        "attention-collapse",
        "exploding-gradient",
        "non-finite",
        "vanishing-gradient",
        "saturated-units",
        "dead-units",
        "representation-collapse",
        "covariate-shift",
        "noisy-gradient",
        "oscillating-loss",
        "underfitting",
        "loss-plateau",
        "not-learning",
    ),
)
def learning_rate_too_large(
    history: History,
    *,
    large: float = 0.1,  # ‖Δw‖/‖w‖ of one step (TheDeepChecker, torchmortem); medians of healthy programs end at 0.1
    replaced: float = 0.5,  # ‖Δw‖/‖w‖ of the first step: what was initialised is gone; judged only after a jump
    jump: float = 2.0,  # times the first loss and the constant prediction's: above, the loss is blown up
    beyond: float = 1.0,  # promise of the steps over that of the largest stable one; 210 healthy runs: 0.5
    near: float = 0.3,  # the same, where nothing is learned after ``soon`` steps; 0.4 at 10 times a good rate
    soon: int = 20,  # steps, where steps promise that much
    ill: float = 5.0,  # times the loss of an output that knows nothing: a first loss above it is no matter of the rate
    opposed: float = -0.1,  # cosine of successive gradients: −0.3 at 5 times the best rate of an MLP on digits
    growing: float = 0.5,  # cosine: above, steps repeat each other: a missing zero_grad, or ascent
    short: float = 0.5,  # of the constant prediction's loss: a run below it learns well, edge of stability or not
    target: float = 0.015,  # ‖Δw‖/‖w‖ to aim at, 9e-3 at the best rate of an MLP on digits with SGD
    inert: float = 0.03,  # the same with momentum, where steps add up to ‖Δw‖/‖w‖ / (1 − momentum), and with Adam
    relapse: float = 0.15,  # of the constant prediction's loss: a loss so far above its least was better before
    raw: float = 100.0,  # rms of a regression's targets: above, their unit is what is large
    patience: int = 60,  # steps before a loss that is not blown up is judged
) -> Iterator[Evidence | Skipped]:
    """Updates are large against the weights, and the loss blows up, is lost, or bounces between opposing gradients.

    ## What it looks at
    ‖Δw‖/‖w‖ of each step, the median over weights (no biases, norms, embeddings, zero-initialised ones); what each step
    promises to first order, gradient times update, against the loss: four times as much is where steps land higher on
    the other side; the cosine of successive gradients, negative where steps jump from wall to wall; the loss of every
    step, NaN and Inf included, against its first value and the best constant prediction. Large updates alone are never
    flagged.

    ## Why it matters
    Beyond 2/curvature each step ends higher on the opposite wall. What follows (dead or saturated units, exploding
    gradients, NaN) is the symptom; the weights often do not recover.

    ## When it is wrong
    Inputs or targets of large scale and too large an initialisation blow up in the same way at any usual rate: then
    the findings on these come first, and the rate is the second remedy.

    ## References
    LeCun et al. 1998, Efficient BackProp, section 4. Cohen et al. 2021, Gradient Descent on Neural Networks Typically
    Occurs at the Edge of Stability. Goyal et al. 2017 (warm-up).
    """
    steps, updates, _ = weight_updates(history)
    values = history.table("loss").values[:, 0] if history.table("loss").columns else np.zeros(0, np.float32)
    lost = bool(len(values)) and (not np.isfinite(values).all() or len(history.series("non_finite_loss")[1]) > 0)
    if history.facts.several_losses or len(updates) < 2 - lost or len(values) < 3 - lost:
        yield Skipped("several losses" if history.facts.several_losses else "fewer than 3 losses")
        return
    shrinking = any(group.optimizer == "Adagrad" for group in history.facts.groups)  # its steps: by the root of them
    if shrinking and not lost and len(values) < soon:
        yield Skipped(f"fewer than {soon} steps of Adagrad, whose first are the largest")
        return
    run = progress(history)
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        yield Skipped("no finite loss seen")
        return
    start = float(history.first("loss")[""])
    constants, uninformed = history.series("constant_loss")[1], history.first("uninformed_loss").get("", np.inf)
    least = abs(float(constants[-1])) if len(constants) else abs(start)
    unit = history.latest("target_rms").get("", 0.0) or _unit_by_hand(history, start)
    if start > ill * abs(uninformed) or (len(constants) and constants[-1] < 0) or unit > raw:
        return  # a fault of the start or of the targets, or a loss turned round: other rules tell
    first, peak = float(updates[0]), float(updates.max())
    if peak < large:
        return
    bound = jump * max(abs(start), least)
    recent = float(finite[-5:].mean()) if run is None else run.recent
    worst = recent if shrinking else float(finite.max()) if first > 2 * replaced else _sustained(finite)
    cosines = history.series("cosine")[1]
    cosine = float(np.mean(cosines[-30:])) if len(cosines) else 0.0
    early = float(np.mean(cosines[:20])) if len(cosines) else 0.0
    window = updates[steps > steps[-1] - max(50, history.step // 5)]
    now = float(np.median(window))
    gains, left = history.series("step_gain")[1], history.table("leftover_gradient").values
    climbing = bool((left > 0).any()) or (len(gains) > 0 and float(np.mean(gains < 0)) > 0.5)
    if early > growing or (early > growing / 2 and first < large / 10 and climbing):
        return
    learned = run is not None and run.learned and recent < short * least
    lowest = float(block_means(finite, 16).min())
    blocks = noise(finite) / max(len(finite) / 16, 1) ** 0.5  # standard error of a sixteenth
    ratio = float(lasting_overshoot(history).max(initial=0.0))
    elsewhere = history.facts.non_finite.stage in ("input", "target")
    bouncing = False  # around a loss that is a gain
    if lost and not elsewhere and (ratio > beyond or worst > bound or first > replaced):
        what = f"the loss was lost (NaN or Inf) after it went from {start:.4g} to {float(finite[-3:].max()):.4g}"
    elif recent > bound or (worst > bound and first >= replaced and not learned):
        what = f"the loss went from {start:.4g} up to {worst:.4g}, now {recent:.4g}"
    elif ratio > beyond and not learned:
        what = f"each promised {4 * ratio:.2g} times the loss, more than there is, and the loss is {recent:.4g}"
    elif run is None or run.steps < (soon if ratio > near else patience) or learned or run.falling:
        return
    elif (first >= large or run.stalled) and lowest < recent - max(relapse * least, 4 * blocks):
        what = f"the loss was down to {lowest:.4g} and is {recent:.4g} now"
    elif run.stalled and (first >= 1.5 * large or ratio > near):
        baseline = "at the start" if run.constant is None else "of the best constant prediction"
        what = f"the loss is {recent:.4g} after {run.steps} steps, no better than the {run.reference:.4g} {baseline}"
    elif cosine < opposed and now >= large / 2:
        what, bouncing = f"the loss bounces at {recent:.4g}", run.learned
    else:
        return
    inertia = momentum(history.facts)
    adaptive = any(group.optimizer.startswith(ADAPTIVE) for group in history.facts.groups)
    rates = highest_rates(history)
    rate = float(rates.max()) if len(rates) else None
    begun = updates[:20] * _rising(history, steps[:20])
    if any(group.optimizer == "RMSprop" for group in history.facts.groups):
        begun = begun * np.sqrt(1 - 0.99 ** steps[:20])  # its mean of squares begins at 0
    kept = np.cumsum(begun) - begun < replaced  # once the weights are replaced, steps tell of the new ones
    sane = [update for update, at in zip(begun[kept], steps, strict=False) if _at(history, int(at)) <= bound]
    start_with = float(begun[0]) if adaptive else float(begun[0]) / (1 - min(inertia, 0.99))
    typical = max(start_with, float(np.median(sane or begun[:1])))
    factor = 1 / float(f"{min(max(typical / (inert if inertia or adaptive else target), 3), 1e5):.1g}")
    lower = both(scale_learning_rate(factor, rate), reduce_on_plateau(0.3))  # halfway (√0.1) to the usual step of ten
    cures = (lower, warm_up(max(100, history.step)))
    opposing = f" and successive gradients oppose each other (cosine {cosine:+.2f})" if cosine < opposed else ""
    yield Evidence(
        f"Single steps changed the weights by up to {_share(peak)} (first step {_share(first)}){opposing}: {what}.",
        readings=(
            Reading(
                "update over weight, median of the weights, largest", peak, large, steps=(int(steps[0]), int(steps[-1]))
            ),
            Reading("update over weight, first step", first, replaced, steps=(int(steps[0]), int(steps[0]))),
            Reading("promise of a step over that of the largest stable one", ratio, beyond),
            Reading("cosine of successive gradients", cosine, opposed, steps=(int(steps[0]), int(steps[-1]))),
            Reading("loss", recent, bound, "loss", steps=(1, history.step)),
        ),
        confidence=0.9 if lost or worst > bound or ratio > beyond else 0.7,
        severity=Severity.ERROR if lost else Severity.NOTE if bouncing else None,
        remedies=cures if learned else tuple(map(from_the_start, cures)),
    )


def _unit_by_hand(history: History, start: float) -> float:
    """Scale of the targets of squares that were written by hand: the first error, where the output is nothing to it."""
    loss = history.facts.loss
    error = abs(start) ** 0.5
    output = history.first("activation_rms").get(loss.layer, error)
    return error if loss.kind == "mse" and output < 0.1 * error else 0.0


def _rising(history: History, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest learning rate so far over that of each step: a schedule's later steps are so many times as long."""
    table = history.table("learning_rate")
    if not len(table):
        return np.ones(len(steps))
    rates = highest_rates(history).astype(np.float64)
    then = rates[np.clip(np.searchsorted(table.steps, steps), 0, len(rates) - 1)]
    times: NDArray[np.float64] = np.divide(rates.max(), then, out=np.ones(len(steps)), where=then > 0)
    return times


def _at(history: History, step: int) -> float:
    """The loss of a step, before it; infinite where it was lost."""
    table = history.table("loss")
    value = float(table.values[min(int(np.searchsorted(table.steps, step)), len(table) - 1), 0])
    return value if np.isfinite(value) else np.inf


def _sustained(losses: NDArray[np.float64]) -> float:
    """The largest loss that two of three successive steps reach: one unlucky batch is no blow-up."""
    if len(losses) < 3:
        return float(losses[-1])
    return float(np.median(np.stack((losses[:-2], losses[1:-1], losses[2:])), 0).max())


def _share(ratio: float) -> str:
    return f"{ratio:.2g}×" if ratio >= 1 else f"{ratio:.0%}"


def _history(update: list[float], loss: list[float], cosine: float) -> History:
    return History.of(
        Facts(
            parameters=(Parameter("fc.weight", "fc", (64, 64), "weight", group=0),),
            groups=(Group("SGD", 0, 1.0),),
            loss=Loss("cross-entropy"),
        ),
        loss=loss,
        constant_loss=[2.3] * len(loss),
        update_ratio={"fc.weight": update},
        cosine=[cosine] * len(loss),
        learning_rate={"0": [1.0] * len(loss)},
    )


_BOUNCE = [0.3 * (-1) ** i for i in range(70)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([0.3, 1.0, 3.0, 9.0, 30.0], [2.3, 8.0, 40.0, 9000.0, float("nan")], -0.2),
        _history([0.2] * 70, [2.4 + n for n in _BOUNCE], -0.3),
        _history([13.0, *[0.02] * 69], [2.3, 2480.0, 900.0, *[2.5 + n for n in _BOUNCE[3:]]], 0.1),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([0.01] * 40, [2.3 * 0.95**i for i in range(40)], 0.2),  # healthy
        _history([0.12] * 70, [2.3 * 0.9**i + 0.1 * n for i, n in enumerate(_BOUNCE)], -0.3),  # edge of stability
        _history([1e-3] * 5, [2.3, 2.2, float("nan"), float("nan"), float("nan")], 0.2),  # NaN from elsewhere
        _history([0.2] * 30, [2.4 + n for n in _BOUNCE[:30]], -0.3),  # too early
    )
