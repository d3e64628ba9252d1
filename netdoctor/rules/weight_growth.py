"""Weights that grow without end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.measured_remedies import bound_weights
from netdoctor.progress import chosen_weights, progress
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("exploding-gradient", "non-finite", "loss-plateau"))
def weight_growth(
    history: History,
    *,
    factor: float = 3.0,  # times the start, median over the weights
    straight: float = 0.8,  # growth over the length of the way: 1 where each step is outward; healthy runs below 0.77
    faster: float = 2.0,  # growth of the last half of the run over that of the first, unless the loss falls below zero
    patience: int = 10,  # samples in the last half of the run
    shortest: int = 50,  # steps
    rewarded: float = 1.5,  # times its first: a penalty of the wrong sign is no noise where it grows
) -> Iterator[Evidence | Skipped]:
    """Every step makes the weights larger, and none of it is taken back.

    ## What it looks at
    Over the last half of the run: how much the rms of each weight grew, against the sum of its updates. It speaks where
    the weights are three times as large as at the start, nearly all of every step goes outward, and they grow faster
    and faster, or buy a negative loss that still falls; or at once where a part of the loss that is made of nothing but
    the sizes of parameters is negative and grows.

    ## Why it matters
    A loss without a lower bound (a critic without constraint, a penalty with the wrong sign, a reward that scale can
    buy) has no minimum: the weights run away until numbers overflow, and what the model says loses its meaning.

    ## When it is wrong
    Training from tiny weights grows too, but steps soon turn: a fifth to a half of their length goes outward, and less
    with time. Targets of large scale draw the weights outward until they are reached.

    ## References
    Arjovsky et al. 2017, Wasserstein GAN, section 3 (weights must be bounded). Merrill et al. 2021, Effects of
    parameter norm growth during transformer training.
    """
    penalties = history.series("penalty")[1]
    if len(penalties) >= patience and penalties[-1] < rewarded * penalties[0] < 0:
        yield _rewarded(history, float(penalties[0]), float(penalties[-1]))
        return
    table, updates = history.table("weight_rms"), history.table("update_rms")
    half = int(np.searchsorted(table.steps, history.step / 2)) if len(table) else 0
    if len(table) - half < patience or history.step < shortest or len(updates) != len(table):
        yield Skipped(f"fewer than {patience} samples in the last half of {shortest} steps")
        return
    chosen = chosen_weights(history)
    if not len(chosen):
        return
    first, last, since = (row[chosen].astype(float) for row in (table.first, table.values[-1], table.values[half]))
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = last / first
    if not (growth >= factor).any():
        return
    places = [updates.place[table.columns[place]] for place in chosen]
    steps = updates.values[half:, places].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        way = np.nan_to_num(steps).mean(0) * float(table.steps[-1] - table.steps[half])
        outward = np.minimum((last - since) / way, 1.0)
        gain = (last - since) - faster * (since - first)
    usable = np.isfinite(growth) & np.isfinite(outward)
    if not usable.any() or np.median(growth[usable]) < factor or np.median(outward[usable]) < straight:
        return
    run = progress(history)
    bought = run is not None and run.recent < min(run.start, 0.0) and run.falling
    if np.median(gain[usable]) < 0 and not bought:
        return
    worst = int(np.argmax(np.where(usable, growth, 0.0)))
    owners = {parameter.name: parameter.layer for parameter in history.facts.parameters}
    order = np.argsort(-np.where(usable, growth, 0.0))
    names = tuple(dict.fromkeys(owners[table.columns[chosen[place]]] for place in order if growth[place] >= factor))
    span = (int(table.steps[half]), int(table.steps[-1]))
    yield Evidence(
        message=f"The weights are {np.median(growth[usable]):.2g} times as large as at the start, those of "
        f"{spoken(names[0])} {growth[worst]:.2g} times, and {np.median(outward[usable]):.0%} of the way of every step "
        f"leads further out; {straight:.0%} is much.",
        layers=names,
        readings=(
            Reading("median rms of the weights over their first", float(np.median(growth[usable])), factor, "", span),
            Reading("growth over the way", float(np.median(outward[usable])), straight, "", span),
        ),
        confidence=0.8,
        remedies=tuple(map(remedies.from_the_start, (bound_weights(history), _decay(history.facts)))),
    )


def _rewarded(history: History, first: float, now: float) -> Evidence:
    """A penalty that is subtracted."""
    return Evidence(
        message=f"A part of the loss is made of the sizes of parameters alone and is negative, {first:.3g} at first "
        f"and {now:.3g} now: the loss falls the larger the weights become.",
        readings=(Reading("part of the loss that parameters alone make", now, 0.0, "loss", (1, history.step)),),
        confidence=0.95,
        remedies=(
            Remedy(
                "Add the penalty on the weights, do not subtract it",
                "loss = task_loss + abs(factor) * penalty",
                "Goodfellow et al. 2016, Deep Learning, section 7.1",
                "the weights stay as small as the data let them",
            ),
            remedies.from_the_start(bound_weights(history, every=True)),  # the penalty rewards biases and norms as well
        ),
    )


def _decay(facts: Facts) -> Remedy:
    decoupled = any(group.optimizer.startswith("AdamW") for group in facts.groups)
    value = 0.1 if decoupled else 1e-3
    return replace(
        remedies.set_weight_decay(value),
        action=f"Or set weight decay {value:g}",
        effect="growth comes to an end where decay and gradient balance",
    )


def _history(count: int, power: float, outward: float) -> History:
    facts = Facts(parameters=(Parameter("fc.weight", "fc", (8, 8), "weight", group=0),))
    weights = 0.1 * (1 + (np.arange(count) / 20) ** power)
    return History.of(
        facts,
        weight_rms={"fc.weight": list(weights)},
        update_rms={"fc.weight": list(np.abs(np.gradient(weights)) / outward)},
    )


def _penalised(first: float, last: float) -> History:
    return History.of(Facts(), penalty=list(np.linspace(first, last, 12)), loss=[2.0] * 12)


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return _history(100, 2.0, 0.95), _penalised(-1.0, -3.0)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(100, 0.3, 0.3),  # healthy
        _history(100, 0.5, 0.9),  # slows down
        _history(100, 1.0, 0.9),  # targets of large scale draw it
        _history(100, 2.0, 0.4),  # grows, but goes to and fro
        _penalised(1.0, 3.0),
        _penalised(-1.0, -1.2),  # hardly feels it
        _history(30, 2.0, 0.95),  # too early
    )
