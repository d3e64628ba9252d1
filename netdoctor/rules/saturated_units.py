"""Bounded hidden units pressed against their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from netdoctor import remedies
from netdoctor.derived import of_facts
from netdoctor.facts import WEIGHTED, Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import first_updates, progress
from netdoctor.rules.base import rule

BOUNDED = ("tanh", "sigmoid", "softsign")  # both sides end in slope 0; hardtanh may be a ReLU6, whose 0 is meant


@rule(
    Severity.WARNING,
    explains=("representation-collapse", "covariate-shift", "underfitting", "loss-plateau", "not-learning"),
)
def saturated_units(
    history: History,
    *,
    early: float = 0.75,  # of the outputs, while nothing is learned; tanh weights 10x too large (0.73) still train well
    persistent: float = 0.5,  # of the outputs, where training stalls; healthy runs start below 0.2, at 0.6 on 0 … 16
    patience: int = 20,  # losses before a training counts as stalled
    samples: int = 5,  # readings that are averaged
    oversized: float = 1.5,  # weight std over the one that keeps the variance
    update: float = 0.1,  # of a weight's norm in a step: such steps drive units into saturation
) -> Iterator[Evidence | Skipped]:
    """Hidden tanh or sigmoid units sit at their bounds, where the slope and so the gradient is almost 0.

    ## What it looks at
    The share of outputs within 3 % of the bound in hidden layers: neither the output layer, nor gates, nor what is
    multiplied with or added to another path. It speaks at three quarters as long as nothing was learned (in the first
    steps only where they began like that), and at half where training stalls.

    ## Why it matters
    At 97 % of its bound tanh passes 6 % of a gradient, a sigmoid 3 % of its input's change: a few such layers pass
    nothing.

    ## When it is wrong
    Nets also learn with saturated units (an autoencoder's bottleneck: 72 %), more slowly. Gates are meant to saturate;
    those inside LSTM and GRU are not seen, and gates made of single layers are left out by their multiplication.

    ## References
    Glorot & Bengio 2010, section 3. Karpathy, makemore part 3 (|tanh| > 0.97). SageMaker Debugger, SaturatedActivation.
    """
    hidden = [layer.name for layer in _hidden(history.facts)]
    if not hidden:
        return
    table = history.table("saturated_share")
    places = [table.place[name] for name in hidden if name in table.columns]
    rows = table.values[-samples:, places].astype(float)
    if not len(rows) or not np.isfinite(rows).any():
        yield Skipped("no activations measured yet")
        return
    course = progress(history)
    if course is not None and course.learned:
        return
    stalled = course is not None and course.stalled and course.steps >= patience
    bound = persistent if stalled else early
    means = rows.mean(0) if course is not None else np.fmin(rows.mean(0), table.first[places])  # else steps drove them
    shares = dict(zip((table.columns[place] for place in places), means.tolist(), strict=True))
    found = {name: share for name, share in shares.items() if share >= bound}  # NaN is not
    if not found:
        return
    first = max(found, key=lambda name: round(found[name], 1))  # the first executed of the worst
    names = (first, *(name for name in found if name != first))
    large = _oversized(history.facts, history.latest("weight_std"), oversized)
    made = _oversized(history.facts, history.first("weight_std"), oversized)  # others grew, as new ones would
    more = f" (and of {len(found) - 1} more)" if len(found) > 1 else ""
    text = f"{found[first]:.0%} of the outputs of {spoken(first)}{more} are within 3 % of the bounds of "
    text += f"{history.facts.layer(first).nonlinearity}, where hardly any gradient passes"
    if first in large:
        text += f"; its weights are {large[first]:.2g}× those that keep the variance"
    elif first in history.first("input_rms"):
        text += f"; its input has rms {history.first('input_rms')[first]:.3g}"
    yield Evidence(
        message=text + ".",
        layers=names,
        readings=tuple(Reading(f"saturated share of {name}", found[name], bound) for name in names),
        confidence=0.85 if stalled or first in large else 0.7,
        remedies=_remedies(history, names, list(made) if any(name in made for name in names) else [], update),
    )


@of_facts
def _hidden(facts: Facts) -> list[Layer]:
    """Layers with a bounded nonlinearity whose output reaches another weight layer and nothing but it."""
    layers = {layer.name: layer for layer in facts.layers if layer.called}
    passed: set[str] = set()  # layers whose output reaches a weight layer, in reverse order of execution
    for layer in reversed(layers.values()):
        if layer.kind in (*WEIGHTED, "norm") or layer.name in passed:
            passed.update(layer.inputs)
    mixed = {  # whose activation module's output is multiplied with or added to another path
        name for layer in layers.values() if layer.kind == "activation" and layer.residual for name in layer.inputs
    }
    return [
        layer
        for layer in layers.values()
        if layer.nonlinearity in BOUNDED and layer.name in passed and not layer.residual and layer.name not in mixed
    ]


def _oversized(facts: Facts, stds: Mapping[str, float], bound: float) -> dict[str, float]:
    """Layers whose weights have ``bound`` times the std that keeps the variance, or more: how many times."""
    ratios = {}
    for layer in facts.layers:
        weight = facts.weight(layer.name) if layer.called and layer.kind in ("linear", "conv") else None
        if weight is not None:
            ratios[layer.name] = stds.get(weight.name, 0.0) / remedies.ideal_std(layer)
    return {name: ratio for name, ratio in ratios.items() if ratio >= bound}


def _remedies(history: History, names: tuple[str, ...], large: list[str], update: float) -> tuple[Remedy, ...]:
    """By evidence: steps that were too large, weights that are, else the scale of what the layers are given."""
    facts, norm = history.facts, remedies.normalise(history.facts, names)
    every = remedies.normalise(history.facts, [layer.name for layer in _hidden(history.facts)])
    weighted = [layer.name for layer in facts.layers if layer.called and layer.kind in ("linear", "conv")]
    typical = first_updates(history)
    if typical >= update and weighted:
        return remedies.start_again(facts, weighted, remedies.slower(typical)), norm
    return (remedies.initialise(facts, large), norm) if large else (remedies.from_the_start(every),)


_FACTS = Facts(
    layers=(
        Layer("0", "linear", "Linear", "", 64, 64, 64, "tanh", (), called=True),
        Layer("2", "linear", "Linear", "", 64, 64, 64, "sigmoid", ("0",), called=True),
        Layer("4", "linear", "Linear", "", 64, 10, 10, "sigmoid", ("2",), called=True),
    )
)
_LEARNING = [2.3 * 0.95**i for i in range(40)]


def _run(shares: tuple[float, float, float], loss: list[float], facts: Facts = _FACTS) -> History:
    columns = dict(zip("024", ([share] * len(loss) for share in shares), strict=True))
    return History.of(facts, saturated_share=columns, loss=loss, constant_loss=[2.3] * len(loss))


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _run((0.9, 0.9, 0.0), [25.0] * 3),  # from the first steps on
        _run((0.1, 0.6, 0.0), [2.3] * 40),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _run((0.02, 0.05, 0.0), _LEARNING),
        _run((0.9, 0.72, 0.0), _LEARNING),  # saturated and learning
        _run((0.6, 0.2, 0.0), [2.3, 2.28, 2.26]),  # digits as 0 … 16, the first steps
        _run((0.0, 0.0, 0.99), [2.3] * 40),  # a confident output
        _run((0.99, 0.0, 0.0), [2.3] * 40, Facts(layers=(Layer("0", "linear", nonlinearity="relu", called=True),))),
        History.of(_FACTS, loss=[2.3]),  # too early
    )
