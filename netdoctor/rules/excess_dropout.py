"""Dropout that leaves too little."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from netdoctor import remedies, wiring
from netdoctor.derived import of_facts
from netdoctor.facts import Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule

CAUSED = (
    "train-val-mismatch",
    "learning-rate-too-large",
    "covariate-shift",
    "underfitting",
    "loss-plateau",
    "not-learning",
)


@rule(Severity.WARNING, explains=CAUSED)
def excess_dropout(
    history: History,
    *,
    rate: float = 0.7,  # the noise has p/(1 - p) = 2.3 times the signal's power; GAT uses 0.6, AWD-LSTM 0.65
    left: int = 128,  # units that stay on average: wide sparse layers bear more (DeepRecommender: 0.8 of 1024)
    through: float = 0.05,  # share of the signal's power that passes all of them; Srivastava's four layers: 0.1
    patience: int = 80,  # steps without learning that tell so: as long as not-learning waits
) -> Iterator[Evidence | Skipped]:
    """Dropout takes most of the signal away: what is left is mostly noise.

    ## What it looks at
    The probability of each dropout layer that takes part in training, that of dropout inside recurrent layers and
    attention included, and how many units stay. Where nothing is learned, also what passes all dropout layers on the
    best way from the input to the output, none of which may be too strong by itself; a skip connection passes by.

    ## Why it matters
    With probability p a unit is 0, else scaled by 1/(1 - p): the noise has p/(1 - p) times the power of the signal, 1
    at 0.5 and 9 at 0.9. Layers in a row multiply. Every batch trains another small network, and none of them well. The
    usual slip is the probability to keep (TensorFlow's first dropout) in place of the probability to drop.

    ## When it is wrong
    A wide layer keeps enough units at 0.8: a note there. A mask that is the task itself, as in a masked autoencoder.

    ## References
    Srivastava et al. 2014, Dropout, section 7.3 and figure 9: flat between 0.4 and 0.8 kept, underfits below 0.3.
    """
    facts = history.facts
    if not any(layer.called for layer in facts.layers):
        yield Skipped("no backward pass seen yet")
        return
    off = wiring.switched_off(history)
    found = [layer for layer in facts.layers if layer.called and layer.rate > rate and layer.name not in off]
    if not found:
        yield from _in_a_row(history, off, left, through, patience)
        return
    found.sort(key=lambda layer: (-layer.rate, layer.kind != "dropout"))
    worst = found[0]
    stay = {layer.name: (1 - layer.rate) * wiring.width(facts, layer) for layer in found}
    wide = all(units >= left for units in stay.values())
    others = f", and {len(found) - 1} more layers likewise" if len(found) > 1 else ""
    units = f": of {wiring.width(facts, worst)} units {stay[worst.name]:.2g} stay" if stay[worst.name] else ""
    noise = f"{worst.rate / (1 - worst.rate):.2g}" if worst.rate < 1 else "infinitely many"
    yield Evidence(
        message=f"{spoken(worst.name)} drops {worst.rate:.0%}{units}, and the noise has {noise} times the power of the "
        f"signal{others}; {rate:.0%} is much.",
        layers=tuple(layer.name for layer in found),
        readings=tuple(Reading(f"dropout of {layer.name}", layer.rate, rate) for layer in found),
        confidence=0.9,
        severity=Severity.NOTE if wide else None,
        remedies=(_lower(facts, found),),
    )


def _in_a_row(history: History, off: set[str], left: int, through: float, patience: int) -> Iterator[Evidence]:
    """Dropout layers that each leave enough, and together nearly nothing of what is to be learned."""
    facts, run = history.facts, progress(history)
    if run is None or run.steps < patience or run.learned:
        return
    rates = {name: rate for name, rate in _rates(facts) if name not in off}
    if not rates:
        return
    passed, path = _least_noisy(facts, rates)
    layers = [layer for layer in facts.layers if layer.name in path]
    if passed > through or any((1 - layer.rate) * wiring.width(facts, layer) >= left for layer in layers):
        return
    yield Evidence(
        f"{len(layers)} dropout layers in a row, {spoken(layers[0].name)} first, let {passed:.2g} of the signal's "
        f"power through: the noise has {1 / passed - 1:.0f} times as much, and after {run.steps} steps the loss is "
        f"{run.recent:.4g} of {run.reference:.4g}.",
        layers=path,
        readings=(
            Reading("share of the signal's power that passes", passed, through),
            *(Reading(f"dropout of {layer.name}", layer.rate) for layer in layers),
        ),
        confidence=0.8,
        remedies=(_together(rates, [*_at_the_input(facts, rates), *path]),),
    )


@of_facts
def _rates(facts: Facts) -> list[tuple[str, float]]:
    return [(layer.name, layer.rate) for layer in facts.layers if layer.kind == "dropout"]


def _least_noisy(facts: Facts, rates: dict[str, float]) -> tuple[float, tuple[str, ...]]:
    """What passes of the signal's power on the best way to the loss's layer, and the dropout layers on it.

    Layers in the order of the model's modules: where one takes what a later one gives, all of it is taken to pass.
    """
    added = {layer.name for layer in facts.layers if layer.residual}
    best: dict[str, tuple[float, tuple[str, ...]]] = {}
    for layer in facts.layers:
        passed, path = max((best.get(name, (1.0, ())) for name in layer.inputs), default=(1.0, ()))
        if not added & set(layer.inputs):  # what a skip connection adds has passed by the dropout
            between = tuple(name for name in layer.dropouts if rates.get(name))
            passed, path = passed * math.prod(1 - rates[name] for name in between), (*path, *between)
        best[layer.name] = passed, path
    return best.get(facts.loss.layer, (1.0, ()))


def _lower(facts: Facts, found: list[Layer]) -> Remedy:
    """Usual rates: 0.1 with attention (Vaswani et al. 2017), 0.2 at the input and in narrow layers, else 0.5."""
    attention = any(layer.kind == "attention" for layer in facts.layers)
    values = {}
    for layer in found:
        narrow = wiring.width(facts, layer) < 256 or not layer.inputs
        values[layer.name] = 0.1 if attention else 0.2 if narrow else 0.5
    lines = []
    for value in sorted(set(values.values())):
        for attribute, inner in (("p", False), ("dropout", True)):
            names = [x.name for x in found if values[x.name] == value and (x.kind != "dropout") is inner]
            if names:
                code = f"    model.get_submodule(name).{attribute} = {value:g}"
                lines.append(f"for name in {remedies.names_code(names)}:\n{code}")
    low, high = min(values.values()), max(values.values())
    return Remedy(
        action=f"Lower the dropout to {low:g}" + (f" … {high:g}" if high > low else ""),
        code="\n".join(lines),
        source="Srivastava et al. 2014, appendix A.4; Vaswani et al. 2017, section 5.4",
        effect="the signal outweighs the noise",
        treatment=partial(_set, values=values),
    )


def _at_the_input(facts: Facts, rates: dict[str, float]) -> list[str]:
    """Dropout layers before all weights: what stands on data leaves no trace in the autograd graph."""
    placed = {name for layer in facts.layers for name in layer.dropouts}
    return [layer.name for layer in facts.layers if layer.called and layer.name in rates and layer.name not in placed]


def _together(rates: dict[str, float], names: list[str]) -> Remedy:
    """A rate, in two digits, at which all of them let through what one layer of the usual 0.5 does: for those above."""
    value = math.floor(100 * (1 - 0.5 ** (1 / len(names)))) / 100
    return remedies.set_dropout([name for name in names if rates[name] > value], value)


def _set(model: Any, optimizer: Any, *, values: dict[str, float]) -> None:
    for name, value in values.items():
        module = model.get_submodule(name)
        setattr(module, "p" if hasattr(module, "p") else "dropout", value)


def _history(rate: float, units: int = 48, mode: float = 0.0) -> History:
    layers = (
        Layer("0", "linear", "Linear", units=units, called=True),
        Layer("1", "dropout", "Dropout", inputs=("0",), called=True, rate=rate),
    )
    return History.of(Facts(layers=layers), evaluation_mode={"0": [np.nan], "1": [mode]})


def _row(rate: float, end: float, residual: bool = False, units: int = 48) -> History:
    """Three layers with dropout between them, and a loss that ends at ``end`` of what a constant has."""
    layers = (
        Layer("0", "linear", units=units, called=True),
        Layer("1", "dropout", inputs=("0",), called=True, rate=rate),
        Layer("2", "linear", inputs=("0",), dropouts=("1",), units=units, residual=residual, called=True),
        Layer("3", "dropout", inputs=("2",), called=True, rate=rate),
        Layer("4", "linear", inputs=("0", "2") if residual else ("2",), dropouts=("3",), units=units, called=True),
        Layer("5", "dropout", inputs=("4",), called=True, rate=rate),
        Layer("6", "linear", inputs=("4",), dropouts=("5",), units=10, called=True),
    )
    loss = [2.3 - (1 - end) * 2.3 * min(step / 50, 1.0) for step in range(100)]
    return History.of(Facts(layers=layers, loss=Loss("cross-entropy", layer="6")), loss=loss, constant_loss=[2.3] * 100)


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(0.9), _history(1.0), _history(0.8), _row(0.7, 1.0))


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(0.5),  # healthy
        _history(0.65),  # AWD-LSTM
        _history(0.8, units=1024),  # a wide layer: a note
        _history(0.9, mode=1.0),  # switched off
        History(Facts(layers=(Layer("1", "dropout", rate=0.9),))),  # too early
        _row(0.5, 1.0),
        _row(0.7, 0.5),  # it learns all the same
        _row(0.7, 1.0, residual=True),
        _row(0.7, 1.0, units=512),
    )
