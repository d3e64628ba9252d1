"""Attention logits that run away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.attention import Softmax, divided, normed, quieter, softmaxes
from netdoctor.facts import Facts, Group, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("attention-collapse", "loss-plateau", "not-learning"))
def logit_growth(
    history: History,
    *,
    large: float = 30.0,  # logit; measured: small models that learn reach 16
    huge: float = 100.0,  # logit at which it is noted in a model that learns (Kimi K2 clips there)
    growth: float = 10.0,  # × the first reading; logits of variance 1 begin with 1 to 3
    little: float = 0.15,  # gain of the loss over a constant: below, nothing was learned that would need such logits
    learned: float = 0.5,  # the same: beyond, what the attention has learned does its work, as in attention-collapse
    update: float = 0.1,  # of a weight's norm in a step: the groups whose steps are so large are slowed down
    readings: int = 2,  # latest thorough samples that must agree
) -> Iterator[Evidence | Skipped]:
    """The products of queries and keys grow out of all proportion, while the loss stays where it is.

    ## What it looks at
    The largest logit of each attention, some queries of some samples, against its first reading. It is a warning where
    the loss has hardly gained on a constant prediction, or no longer falls from more than half of it; a note where a
    model that learns gets there.

    ## Why it matters
    Queries and keys amplify each other: their product grows with the square of the weights. The softmax then picks one
    key and passes no gradient, and half precision runs out of digits.

    ## When it is wrong
    Large models reach logits of 50 and more in good health; what counts is that the loss gains nothing by it.

    ## References
    Dehghani et al. 2023, Scaling vision transformers to 22 billion parameters, section 2. Wortsman et al. 2023,
    Small-scale proxies for large-scale transformer training instabilities, section 3.1. Kimi K2 2025 (QK-clip).
    """
    known = [each for each in softmaxes(history) if each.attention]
    if not known:
        yield Skipped("no attention measured yet")
        return
    state = progress(history)
    if state is None:
        yield Skipped("fewer than 10 losses, or losses that do not tell of progress")
        return
    stuck = state.gain < little
    bound = large if stuck else huge
    found = [each for each in known if len(each.logits) > readings and each.logits[-readings:].min() >= bound]
    found = [each for each in found if each.logits[-readings:].min() >= growth * each.logits[0]]
    if not found:
        return
    idle = stuck or (state.gain < learned and not state.falling)
    worst = max(found, key=lambda each: float(each.logits[-1]))
    names = (worst.name, *(each.name for each in found if each is not worst))
    slower = _slower(history, found, update)
    yield Evidence(
        message=f"Attention logits of {spoken(worst.name)} grew from {worst.logits[0]:.2g} to {worst.logits[-1]:.3g}, "
        f"and the loss is {state.recent:.3g}"
        + (f", a constant prediction has {state.constant:.3g}." if state.constant is not None else "."),
        layers=names,
        readings=tuple(
            Reading(f"largest logit of {each.name}", float(each.logits[-1]), bound, "", _span(each)) for each in found
        ),
        confidence=0.85,
        severity=None if idle else Severity.NOTE,
        remedies=(
            remedies.from_the_start(slower) if idle else slower,
            *(() if slower.applicable else divided(history, found)),
            normed(),
        ),
    )


def _span(softmax: Softmax) -> tuple[int, int]:
    return int(softmax.steps[0]), int(softmax.steps[-1])


def _slower(history: History, found: list[Softmax], update: float) -> Remedy:
    """Lower the rate of the groups whose steps are large, and scale the queries back."""
    table, groups = history.table("update_ratio"), history.facts.groups
    rows = table.values[:3]  # before the weights have grown with their steps
    held = {p.name: p.group for p in history.facts.parameters if p.role == "weight"}
    factors = {}
    for index, group in enumerate(groups):
        columns = [place for place, name in enumerate(table.columns) if held.get(name) == index]
        steps = rows[:, columns][np.isfinite(rows[:, columns])]
        if len(steps) and float(np.median(steps)) >= update:
            factors[group.index] = remedies.slower(float(np.median(steps)))
    slow = remedies.slow_groups(factors or dict.fromkeys((group.index for group in groups), 0.1))
    return remedies.both(slow, quieter(history.facts, found))


_FACTS = Facts(
    layers=(Layer("query", "linear", "Linear", "", 32, 32, 32, "", ("norm",), residual=True, called=True),),
    groups=(Group("Adam", 0, 1e-3),),
)


def _run(logits: list[float], loss: list[float]) -> History:
    history = History.of(
        _FACTS,
        [2**i for i in range(len(logits))],
        softmax_entropy={"query": [0.9] * len(logits)},
        softmax_balance={"query": [0.9] * len(logits)},
        attention_logit={"query": logits},
    )
    for step, value in enumerate(loss, 1):
        history.record(step, "loss", [value])
        history.record(step, "constant_loss", [2.2])
    return history


_STALLED, _LEARNING = [2.2] * 64, [2.2 * 0.97**i for i in range(64)]
_HELD_UP = [max(loss, 1.5) for loss in _LEARNING]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _run([1.0, 2.0, 9.0, 40.0, 90.0, 300.0, 300.0], _STALLED),
        _run([1.0, 2.0, 9.0, 40.0, 90.0, 300.0, 300.0], _HELD_UP),
        _run([1.0, 2.0, 9.0, 40.0, 90.0, 300.0, 300.0], _LEARNING),  # a note
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _run([1.0, 1.0, 2.0, 3.0, 6.0, 9.0, 16.0], _LEARNING),  # healthy
        _run([1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0], _STALLED),  # stalls for another reason
        _run([40.0, 50.0, 60.0, 60.0, 60.0, 60.0, 60.0], _LEARNING),  # large from the start, and learns
        _run([1.0, 300.0], [2.2] * 4),  # too early
    )
