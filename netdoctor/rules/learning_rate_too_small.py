"""The learning rate is so small that the weights stay where they are."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import Facts, Group, Layer, Loss, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import highest_rates, reference
from netdoctor.history import History
from netdoctor.progress import UNTOLD, Progress, progress, weight_updates
from netdoctor.remedies import decay_instead, find_learning_rate, scale_learning_rate, step_once_an_epoch
from netdoctor.rules.base import rule

STEADY = 0.8  # of what the first half of the steps promised: where the second does less, the loss levels off


@rule(Severity.WARNING, explains=("underfitting", "loss-plateau", "not-learning"))
def learning_rate_too_small(
    history: History,
    *,
    ratio: float = 1e-4,  # ‖Δw‖/‖w‖, a tenth of CS231n's; least of 210 healthy runs before they learned: 6e-4
    target: float = 3e-3,  # ‖Δw‖/‖w‖ to aim at: the median of 22 healthy programs is 2e-3, the rule of thumb 1e-3
    aim: float = 0.01,  # ‖Δw‖/‖w‖ that the remedy makes: 9e-3 at the best rate of an MLP on digits
    moved: float = 1e-3,  # ‖Δw‖/‖w‖: a weight that moves so much, now or earlier, shows that the rate is not the cause
    most: float = 1e4,  # factor at most in one go: beyond it the estimate is an extrapolation
    fall: float = 0.1,  # share of its first value that the loss may have lost: a run that falls more gets somewhere
    opposed: float = -0.1,  # cosine of successive gradients: below, they cancel, and small steps are not what is wrong
    patience: int = 30,  # steps, at a learning rate that does not rise: longer than this, a warm-up shows its slope
    vanished: float = 1e-2,  # of the largest learning rate: a schedule that has come so far down has ended the training
    ended: float = 0.5,  # share of the run since then: cosine and step decays end with less of it
    ended_surely: float = 0.3,  # the same, at a hundredth of that rate: no decay of a plan has steps of no use at all
    high: float = 0.5,  # of the reference loss: above, the schedule ended before much was learned
    agreeing: float = 0.1,  # mean cosine of successive gradients: above, they still lead somewhere
    apart: float = 1e-3,  # update of the slowest param group over that of the fastest, and learning rate likewise
    untouched: float = 0.05,  # std of a weight against torch's own initialisation: closer is as initialised
    samples: int = 8,  # readings of the updates at least
    same: float = 0.7,  # cosine of successive gradients, of nearly all: between them nothing bends, the steps are short
    wider: float = 3.0,  # times ``ratio`` and ``moved`` that are too little then
    slow: float = 0.25,  # share of the first loss that may be gone then
    straight: int = 50,  # steps for that
    agree: float = 0.3,  # mean cosine that is enough where steps promise, all along, less than ``little`` of the loss
    little: float = 5e-4,  # of what there is to lose: 2,000 such steps to the end; 580 healthy runs: 1.4e-3 and more
) -> Iterator[Evidence | Skipped]:
    """Updates are orders below the weights, gradients keep agreeing, and the loss hardly moves.

    ## What it looks at
    ‖Δw‖/‖w‖ of each step, the median over weights (no biases, norms, embeddings, zero-initialised or frozen ones); the
    cosine of successive gradients, which stays as it is where nothing changes under the weights' feet; the training
    loss against its start and against the best constant prediction. Where a schedule has lowered the rate, the steps
    before it are judged; and whether it lowered the rate long before the gradients ceased to agree. The rates of the
    param groups are held against each other. Where nearly all successive gradients point the same way, updates three
    times as large are too small still, and the loss may have fallen a bit; likewise where they agree on the whole and
    steps promise, the last ones as much as the first, next to nothing.

    ## Why it matters
    Progress is proportional to the learning rate here: ten times the rate does the same in a tenth of the steps.

    ## When it is wrong
    A schedule that starts with a long constant, tiny rate. Fine-tuning and converged runs are not flagged: their loss
    is below the constant prediction. Where only some layers stand still, gradients are the cause, not the rate, and
    nothing is said; but for a param group whose rate is a thousandth of another's and whose weights are as torch
    initialised them.

    ## References
    CS231n, Neural Networks 3, "Ratio of weights:updates". Smith 2017, Cyclical Learning Rates (the range test).
    """
    run = progress(history)
    steps, updates, largest = weight_updates(history)
    if run is None or len(updates) < samples or history.step < patience:
        yield Skipped(UNTOLD if run is None else f"fewer than {patience} steps")
        return
    update = float(np.median(updates[-samples:]))
    rates = highest_rates(history)
    decayed = len(rates) > 0 and rates[-1] < 0.5 * rates.max()
    if decayed:
        bounds = (ended, ended_surely)
        over = [*_ended(history, run, rates, update, vanished, bounds, high, agreeing)] if rates[-1] > 0 else []
        yield from over
        full = np.flatnonzero(rates >= 0.5 * rates.max())[-1]
        chosen = steps <= history.table("learning_rate").steps[full]
        if over or chosen.sum() < samples:
            return
        steps, updates, largest, rates = steps[chosen], updates[chosen], largest[chosen], rates[: full + 1]
        update = float(np.median(updates[-samples:]))
    if update == 0 or (len(rates) and rates[-1] <= 0):
        yield Skipped("the learning rate is 0, or the weights do not change")
        return
    if len(rates) and rates[-1] > 1.01 * rates[-samples:][0]:
        yield Skipped("the learning rate still rises")
        return
    cosine = float(np.mean(history.series("cosine")[1][-50:])) if len(history.series("cosine")[1]) else 0.0
    gone = (run.start - run.recent) / abs(run.start) if run.start else 0.0
    frozen = None if decayed else _nearly_frozen(history, samples, ratio, apart, untouched)
    if frozen is not None:
        yield frozen
        return
    most_moved = float(np.median(largest[-samples:]))
    stuck = most_moved < moved and float(updates.max()) < moved
    if not stuck or update >= ratio or run.learned or gone >= fall or cosine < opposed:
        creeps = not decayed and most_moved < wider * moved and float(updates.max()) < wider * ratio
        if creeps and run.steps >= straight and gone < slow and run.gain < slow:
            yield from _straight_on(history, run, rates, update, wider * ratio, aim, (same, agree, little), gone, slow)
        return
    factor = float(f"{min(aim / update, most):.1g}")
    first, last = int(steps[-min(samples, len(steps))]), int(steps[-1])
    size = "Updates were, at the full learning rate," if decayed else "Updates are"
    still = f" and successive gradients still point the same way (cosine {cosine:+.2f})" if cosine > 0.1 else ""
    yield Evidence(
        f"{size} {update:.1g} of the weights, {target / update:.2g}× below the {target:g} that trains; after "
        f"{run.steps} steps the loss went from {run.start:.4g} to {run.recent:.4g}{still}.",
        readings=(
            Reading("update over weight, median of the weights", update, ratio, steps=(first, last)),
            Reading("cosine of successive gradients", cosine, opposed, steps=(int(steps[0]), last)),
            Reading("share of the loss gone", gone, fall, steps=(1, run.steps)),
        ),
        confidence=0.95 if cosine > 0.1 and update < ratio / 5 else 0.8,
        remedies=(scale_learning_rate(factor, float(rates[-1]) if len(rates) else None), find_learning_rate()),
    )


def _straight_on(
    history: History,
    run: Progress,
    rates: NDArray[np.float64],
    update: float,
    bound: float,
    aim: float,
    bounds: tuple[float, float, float],
    gone: float,
    slow: float,
) -> Iterator[Evidence]:
    """The loss falls, along a line so straight that steps many times as long would follow it."""
    same, agree, little = bounds
    steps, cosines = history.series("cosine")
    if len(cosines) < 8:
        return
    alike, mean, promise = float(np.quantile(cosines, 0.1)), float(cosines.mean()), _promise(history)
    if alike >= same:
        what = f"successive gradients still point the same way (cosine above {alike:.2f} in nine of ten)"
        shown = Reading(
            "cosine of successive gradients, a tenth is below", alike, same, steps=(int(steps[0]), run.steps)
        )
    elif mean > agree and 0 < promise < little:
        what = f"each step promises {promise:.1g} of the loss, the last as much as the first (cosine {mean:+.2f})"
        shown = Reading("promise of a step, of what there is to lose", promise, little, steps=(1, run.steps))
    else:
        return
    before, after = history.series("gradient_norm")[1], history.series("clipped_gradient_norm")[1]
    clipped = float(np.median(after) / max(np.median(before), 1e-30)) if len(before) and len(after) else 1.0
    factor = float(f"{aim / update:.1g}")
    why = f", the norm of the gradients being cut to {float(np.median(after)):.2g}" if clipped < 0.3 else ""
    loosen = () if clipped >= 0.3 else (_loosen(float(np.median(before))),)
    yield Evidence(
        f"Updates are {update:.1g} of the weights{why}: after {run.steps} steps the loss went from {run.start:.4g} to "
        f"{run.recent:.4g} only, and {what}.",
        readings=(
            Reading("update over weight, median of the weights", update, bound, steps=(int(steps[0]), int(steps[-1]))),
            shown,
            Reading("share of the loss gone", gone, slow, steps=(1, run.steps)),
        ),
        confidence=0.8,
        remedies=(*loosen, scale_learning_rate(factor, float(rates[-1]) if len(rates) else None), find_learning_rate()),
    )


def _promise(history: History) -> float:
    """What a step promises, of what there is to lose; 0 where that is unknown, or the last ones promise less."""
    gains, least = history.series("step_gain")[1], reference(history)
    if len(gains) < 8 or not least:
        return 0.0
    first, last = np.array_split(gains.astype(np.float64), 2)
    return float(gains.mean()) / least if last.mean() > STEADY * first.mean() else 0.0


def _loosen(norm: float) -> Remedy:
    return Remedy(
        action=f"Clip what is far above the usual norm, which is {norm:.2g}, not every gradient",
        code=f"torch.nn.utils.clip_grad_norm_(model.parameters(), {float(f'{2 * norm:.1g}'):g})",
        source="Pascanu et al. 2013, section 3.2",
        effect="steps are as long as the learning rate says",
    )


def _ended(
    history: History,
    run: Progress,
    rates: NDArray[np.float64],
    update: float,
    vanished: float,
    ended: tuple[float, float],
    high: float,
    agreeing: float,
) -> Iterator[Evidence]:
    """A schedule in steps of batches that was meant for epochs."""
    steps = history.table("learning_rate").steps
    above = np.flatnonzero(rates >= vanished * rates.max())
    since = int(steps[min(above[-1] + 1, len(steps) - 1)])
    share = 1 - since / max(run.steps, 1)
    when, cosines = history.series("cosine")
    cosine = float(np.mean(cosines[when >= since])) if (when >= since).any() else 0.0
    gone = bool(rates[-1] < vanished**2 * rates.max())
    if rates[-1] >= vanished * rates.max() or share < ended[gone] or cosine < agreeing:
        return
    if run.reference <= 0 or run.recent < high * run.reference:
        return
    yield Evidence(
        f"The schedule brought the learning rate from {rates.max():.3g} down to {rates[-1]:.2g}: since step {since} "
        f"nothing moves (updates {update:.1g} of the weights), with the loss at {run.recent:.4g} of "
        f"{run.reference:.4g} and gradients that still agree (cosine {cosine:+.2f}).",
        readings=(
            Reading(
                "learning rate over its largest", float(rates[-1] / rates.max()), vanished, steps=(since, run.steps)
            ),
            Reading("cosine of successive gradients", cosine, agreeing, steps=(since, run.steps)),
            Reading("training loss", run.recent, high * run.reference, "loss", steps=(since, run.steps)),
        ),
        confidence=0.85,
        remedies=(step_once_an_epoch(), decay_instead(_largest(history), 10 * run.steps)),
    )


def _largest(history: History) -> list[float]:
    """Of each param group, the largest learning rate so far."""
    return [float(rate) for rate in np.nan_to_num(history.table("learning_rate").values).max(0)]


def _nearly_frozen(history: History, samples: int, ratio: float, apart: float, untouched: float) -> Evidence | None:
    """A param group at a tiny rate, whose weights are still those of torch's own initialisation."""
    facts, table, stds = history.facts, history.table("update_ratio"), history.first("weight_std")
    rates = history.latest("learning_rate")
    if len(facts.groups) < 2 or len(table) < samples:
        return None
    recent = dict(zip(table.columns, np.nan_to_num(table.values[-samples:]).mean(0), strict=True))
    fans = {layer.name: layer.fan_in for layer in facts.layers}
    updates: dict[int, list[float]] = {}
    fresh: dict[int, list[str]] = {}
    for parameter in facts.parameters:
        if parameter.role == "weight" and parameter.group is not None and parameter.name in recent:
            updates.setdefault(parameter.group, []).append(float(recent[parameter.name]))
            default = (3 * max(fans.get(parameter.layer, 0), 1)) ** -0.5
            if fans.get(parameter.layer) and abs(stds.get(parameter.name, 0) / default - 1) < untouched:
                fresh.setdefault(parameter.group, []).append(parameter.layer)
    typical = {group: float(np.median(values)) for group, values in updates.items()}
    if len(typical) < 2:
        return None
    slow, fast = min(typical, key=typical.__getitem__), max(typical, key=typical.__getitem__)
    rate, usual = rates.get(str(slow), 0.0), rates.get(str(fast), 0.0)
    layers = fresh.get(slow, [])
    if not (0 < typical[slow] < min(apart * typical[fast], ratio) and 0 < rate < apart * usual):
        return None
    if 2 * len(layers) <= len(updates[slow]):
        return None
    those = f"{len(layers)} layers, {spoken(layers[0])} first," if len(layers) > 1 else spoken(layers[0])
    return Evidence(
        f"The learning rate of {those} is {rate:.1g}, {usual / rate:,.0f} times below the {usual:.3g} of the others: "
        f"updates of {typical[slow]:.1g} of the weights, which are as torch initialised them, leave them as they are.",
        layers=tuple(dict.fromkeys(layers)),
        readings=(
            Reading("update over weight, median of the slow param group", typical[slow], ratio),
            Reading("learning rate over that of the fastest param group", rate / usual, apart),
        ),
        confidence=0.85,
        remedies=(_raise_group(facts.groups[slow].index, usual),),
    )


def _raise_group(index: int, rate: float) -> Remedy:
    return Remedy(
        action=f"Raise the learning rate of param group {index} to the {rate:.3g} of the others, or freeze its layers",
        code=f'optimizer.param_groups[{index}]["lr"] = {rate:.6g}',
        source="Bengio 2012, Practical recommendations, section 3.1",
        effect="the first layers learn too",
        treatment=functools.partial(_set_rate, index=index, rate=rate),
    )


def _set_rate(model: Any, optimizer: Any, *, index: int, rate: float) -> None:
    if optimizer is None:
        raise ValueError("this remedy changes the learning rate: pass the optimizer, remedy.apply(model, optimizer)")
    optimizer.param_groups[index]["lr"] = rate


def _history(
    update: float, loss: list[float], rate: list[float], cosine: float = 0.33, constant: float = 2.3
) -> History:
    count = len(loss)
    return History.of(
        Facts(
            parameters=(Parameter("fc.weight", "fc", (64, 64), "weight", group=0),),
            groups=(Group("SGD", 0, rate[0]),),
            loss=Loss("cross-entropy"),
        ),
        loss=loss,
        constant_loss=[constant] * count,
        update_ratio={"fc.weight": [update * r / rate[-1] for r in rate]},
        cosine=[cosine] * count,
        learning_rate={"0": rate},
    )


_NOISE = [0.02 * (-1) ** (i // 2) for i in range(60)]


def _creeping(cosine: float, fall: float, update: float = 1e-4, promise: tuple[float, float] | None = None) -> History:
    history = _history(update, [2.32 - fall * i + n for i, n in enumerate(_NOISE)], [1e-3] * 60, cosine)
    if promise is not None:
        history.record_rows(range(1, 61), "step_gain", np.linspace(*promise, 60)[:, None])
    return history


def _two_groups(slow: float, std: float) -> History:
    names = ("0.weight", "2.weight")
    return History.of(
        Facts(
            layers=tuple(Layer(name[0], "linear", "Linear", "", 64, 64, 64) for name in names),
            parameters=tuple(Parameter(name, name[0], (64, 64), "weight", group=i) for i, name in enumerate(names)),
            groups=(Group("Adam", 0, slow * 1e-2), Group("Adam", 1, 1e-2)),
            loss=Loss("cross-entropy"),
        ),
        loss=[2.3 * 0.97**i for i in range(60)],
        constant_loss=[2.3] * 60,
        update_ratio={"0.weight": [slow * 1e-2] * 60, "2.weight": [1e-2] * 60},
        weight_std={"0.weight": [std] * 60, "2.weight": [std] * 60},
        cosine=[0.2] * 60,
        learning_rate={"0": [slow * 1e-2] * 60, "1": [1e-2] * 60},
    )


_DECAY = [max(1e-2 * 0.5 ** (i // 3), 1e-9) for i in range(60)]
_COSINE = [5e-6 * (1 + np.cos(np.pi * i / 60)) for i in range(60)]
_STEEP = [1e-2 if i < 35 else 1e-8 for i in range(60)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _two_groups(1e-5, 0.0722),  # a backbone nearly frozen, as torch initialised it
        _creeping(0.9, 0.005),
        _creeping(0.5, 0.001, 2e-4, (4e-4, 4e-4)),
        _history(1e-9, [max(2.3 - 0.01 * i, 2.2) + n for i, n in enumerate(_NOISE)], _DECAY),
        _history(1e-9, [max(2.3 - 0.01 * i, 2.2) + n for i, n in enumerate(_NOISE)], _STEEP),
        _history(7e-7, [2.32 + n for n in _NOISE], [1e-5] * 60),
        _history(7e-10, [2.32 + n for n in _NOISE], _COSINE),  # too small all along, and lowered besides
        _history(6e-5, [2.32 - 0.0002 * i + n for i, n in enumerate(_NOISE)], [1e-3] * 60, cosine=0.05),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _two_groups(1e-5, 0.11),  # a pre-trained one
        _two_groups(1e-2, 0.0722),
        _creeping(0.3, 0.005),  # gradients that turn
        _creeping(0.5, 0.001, 2e-4, (4e-4, 1e-4)),  # steps that gain less and less
        _creeping(0.5, 0.005, 2e-4, (5e-3, 5e-3)),  # and that gain much
        _creeping(0.9, 0.02),  # and that lead down fast
        _creeping(0.9, 0.005, 1e-3),
        _history(1e-9, [max(2.3 - 0.1 * i, 0.4) + n for i, n in enumerate(_NOISE)], _DECAY),  # learned before
        _history(
            1e-9, [max(2.3 - 0.01 * i, 2.2) + n for i, n in enumerate(_NOISE)], _DECAY, cosine=0.0
        ),  # and no signal
        _history(1e-9, [max(2.3 - 0.01 * i, 2.2) for i in range(60)], [max(r, 1e-5) for r in _STEEP]),  # the last part
        _history(9e-6, [2.32 + n for n in _NOISE], _COSINE, cosine=0.0),  # steps were large before
        _history(9e-3, [2.32 * 0.96**i + n for i, n in enumerate(_NOISE)], [0.1] * 60),  # healthy
        _history(2e-5, [0.06 + 0.1 * n for n in _NOISE], [1e-5] * 60, cosine=0.0),  # fine-tuning, converged
        _history(2e-5, [2.32 + n for n in _NOISE], [1e-6 * (i + 1) for i in range(60)]),  # warm-up
        _history(7e-7, [2.32] * 10, [1e-5] * 10),  # too early
    )
