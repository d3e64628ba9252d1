"""An input whose scale the first layer's weights are not made for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.ends import first_layers
from netdoctor.facts import Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.measured_remedies import standardise_targets
from netdoctor.progress import progress
from netdoctor.rules.base import rule

CAUSED = (
    "poor-initialization",
    "unexpected-initial-loss",
    "learning-rate-too-large",
    "exploding-gradient",
    "non-finite",
    "saturated-units",
    "dead-units",
    "covariate-shift",
    "underfitting",
    "loss-plateau",
    "not-learning",
    "class-collapse",
)


@rule(Severity.WARNING, explains=CAUSED)
def unnormalized_input(
    history: History,
    *,
    large: float = 20.0,  # rms; digits as 0 … 16 (rms 7.8) train as well as scaled ones, SGD stalls from 15 to 30 on
    small: float = 0.01,  # rms; below, SGD gets nowhere in 300 steps and Adam loses most of its speed
    faint: float = 0.05,  # largest magnitude of such an input; one-hot and tf-idf have a small rms, but larger entries
    varied: float = 0.02,  # spread over samples against rms; a feature of 50 ± 1 reads as much, [0, 1] images 0.5
    uneven: float = 1.3,  # spread of the features' means over the overall mean: images 1, raw tables 1.7 and more
    apart: float = 2.0,  # largest magnitude in the rms of one feature that is all of the scale: 1.7 if uniform
    raw: float = 30.0,  # rms of a regression's targets, as in unnormalized-target
    weak: float = 0.1,  # rms, where nothing is learned and
    drowned: float = 0.3,  # of the first layer's output, all that differs between samples; rms times √fan-in by default
    patience: int = 50,  # steps without learning; 580 healthy runs have no such input at all
    samples: int = 20,  # readings at the start that are averaged
) -> Iterator[Evidence | Skipped]:
    """The input is far from the mean 0 and variance 1 that initialisations and learning rates are made for.

    ## What it looks at
    Root mean square, mean, standard deviation and spread over samples of what the first weight layers are given, over
    the first samples: scale far above 1, far below 1, or a spread that drowns in an offset. Where nothing is learned,
    also whether a small input drowns in the biases of the first layer: they are as large as its weights.

    ## Why it matters
    The first layer's gradient grows with the input and its curvature with the input's square: no learning rate suits
    both it and the other layers. Large inputs saturate or kill units in the first steps, tiny ones carry no signal
    beside the biases, and features of different scale are learned one after the other.

    ## When it is wrong
    Adam trains through inputs of 0 … 255, at a price. A normalisation right behind the first layer mends most of it:
    then it is a note, unless a skip connection carries it past the norm. Token ids, one-hot vectors and images in
    [0, 1] are not this. One feature in many that is out of scale stays unseen while the whole input's rms is in bounds.

    ## References
    LeCun et al. 1998, Efficient BackProp, section 4.3. Ioffe & Szegedy 2015, section 2. DeepDiagnosis and UMLAUT alarm
    outside [-1, 1], which fires on standardised data too (11 of 22 healthy programs).
    """
    entries = tuple(first_layers(history.facts))
    names = tuple(layer.name for layer in entries)
    mean, std, signal, high = (
        _start(history, name, names, samples) for name in ("input_mean", "input_std", "input_signal", "input_max")
    )
    seen = [layer for layer in entries if std.get(layer.name, math.nan) >= 0 and layer.name in mean]
    if not seen:
        yield Skipped("no input of a first layer measured yet")
        return
    stuck = _stuck(history, patience)
    outputs = ("activation_rms", "activation_signal") if stuck else ("", "")
    out, differs = (_start(history, name, names, samples) for name in outputs)
    for layer in seen:
        m, s, over_samples = mean[layer.name], std[layer.name], signal.get(layer.name, math.nan)
        rms = math.hypot(m, s)
        if rms > large:
            reading, fault = Reading("rms of the input", rms, large, "x"), "1 is what the first layer expects"
        elif 0 < rms < small and high.get(layer.name, math.inf) < faint:
            reading, fault = Reading("rms of the input", rms, small, "x"), "1 is what the first layer expects"
        elif rms >= small and 0 < over_samples < varied * rms:
            reading = Reading("spread of the input over samples, over its rms", over_samples / rms, varied)
            fault = f"from sample to sample it varies by {over_samples:.2g} only"
        elif stuck and rms < weak and 0 < differs.get(layer.name, 0.0) < drowned * out.get(layer.name, 0.0):
            reading, share = Reading("rms of the input", rms, weak, "x"), differs[layer.name] / out[layer.name]
            fault = f"{share:.0%} of what the layer gives depends on it, the rest on the biases, and nothing is learned"
        else:
            continue
        between = math.sqrt(max(s**2 - over_samples**2, 0.0)) if over_samples > 0 else 0.0
        features = between > uneven * abs(m) and layer.kind != "conv"
        text = f"The input of {spoken(layer.name)} has rms {rms:.3g} (mean {m:.3g}, std {s:.3g}); {fault}"
        one, each = remedies.standardise(layer, m, s if s > 0 else 1.0), remedies.standardise_features(layer)
        cures: tuple[Remedy, ...] = (each, one) if features else (one, each)
        outlying = high.get(layer.name, 0.0) > apart * max(layer.fan_in, 1) ** 0.5 * rms
        if outlying and layer.kind != "conv":
            cures = (remedies.standardise_robustly(layer), *cures)
        if history.first("target_rms").get("", 0.0) > raw:
            cures = (*(remedies.both(first, then) for first in cures for then in standardise_targets(history)), *cures)
        behind = [other.kind for other in history.facts.layers if layer.name in other.inputs]
        normed = bool(behind) and all(kind == "norm" for kind in behind)  # and none takes it as it is, past a norm
        yield Evidence(
            message=text
            + (f", and its features differ in scale: their means spread by {between:.3g}." * features or "."),
            layers=(layer.name,) if layer.name else (),
            readings=(reading, Reading("mean of the input", m, 0.0, "x"), Reading("std of the input", s, 1.0, "x")),
            confidence=0.9,
            remedies=cures,
            severity=Severity.NOTE if normed else Severity.WARNING,
        )


def _stuck(history: History, patience: int) -> bool:
    run = progress(history)
    return run is not None and run.steps >= patience and not run.learned


def _start(history: History, statistic: str, names: tuple[str, ...], samples: int) -> dict[str, float]:
    """Mean of the first finite readings of each layer; the very first alone where the table was thinned."""
    table = history.table(statistic)
    found = {}
    for name in names:
        place = table.place[name] if name in table.columns else -1
        readings = table.values[:samples, place] if place >= 0 and table.stride == 1 else np.zeros(0)
        readings = readings[np.isfinite(readings)]
        if len(readings):
            found[name] = float(np.mean(readings, dtype=np.float64))
        elif place >= 0 and np.isfinite(table.first[place]):
            found[name] = float(table.first[place])
    return found


_FACTS = Facts(layers=(Layer("0", "linear", fan_in=13, called=True), Layer("2", "linear", inputs=("0",), called=True)))
_PAST_NORM = Facts(
    layers=(
        Layer("0", "linear", called=True),
        Layer("1", "norm", inputs=("0",), called=True),
        Layer("2", "linear", inputs=("1",), called=True),
        Layer("3", "linear", inputs=("0", "2"), called=True),
    )
)
_BEHIND_NORM = Facts(layers=(Layer("0", "norm", called=True), Layer("1", "linear", inputs=("0",), called=True)))


def _input(mean: float, std: float, signal: float, high: float, facts: Facts = _FACTS) -> History:
    def both(value: float) -> dict[str, list[float]]:
        return {"0": [value] * 3, "2": [50.0] * 3}  # whatever the later layer is given

    return History.of(
        facts, input_mean=both(mean), input_std=both(std), input_signal=both(signal), input_max=both(high)
    )


def _faint(share: float, end: float) -> History:
    """An input of rms 0.05, of which ``share`` is left in the first layer's output, and the last loss."""
    history = _input(0.0, 0.05, 0.05, 0.2)
    history.record_rows((1, 2, 3), "activation_rms", [[1.0, 1.0]] * 3, ("0", "2"))
    history.record_rows((1, 2, 3), "activation_signal", [[share, share]] * 3, ("0", "2"))
    history.record_rows(range(1, 101), "loss", [[1.0 - (1 - end) * min(i / 50, 1.0)] for i in range(100)])
    history.record_rows(range(1, 101), "constant_loss", [[1.0]] * 100)
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _input(79, 96, 68, 255),  # images of 0 … 255
        _input(70, 218, 81, 1280),  # the wine table as it comes
        _input(0.0012, 0.0015, 0.001, 0.004),  # images divided by 255 twice
        _faint(0.15, 1.0),
        _input(10, 0.1, 0.1, 10.4),  # a signal on an offset
        _input(4000, 700, 700, 6000, _PAST_NORM),  # the skip connection of a pre-norm block
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _input(0, 1, 1, 4),
        _input(0.31, 0.38, 0.27, 1),
        _input(5, 6, 4.3, 16),
        _input(0.001, 0.03, 0.03, 1),  # one-hot
        _input(0, 0, 0, 0),
        _input(79, 96, 68, 255, _BEHIND_NORM),
        _faint(0.15, 0.7),  # it learns
        _faint(0.8, 1.0),  # no matter of the biases
        History.of(_FACTS, loss=[2.3]),  # too early
    )
