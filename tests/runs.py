"""Histories and a verdict by hand, with everything that a report can show."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from netdoctor.facts import Facts, Group, Layer, Loss, Parameter
from netdoctor.findings import Diagnosis, Finding, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.statistics import STATISTICS

STEPS = 60
QUANTILES = ("01", "05", "25", "50", "75", "95", "99")
LAYERS = tuple(f"fc{place}" for place in range(8))

NORMALISE = Remedy("Normalise", "model = normalised(model)", "Ioffe & Szegedy 2015", "the scale stays")
INITIALISE = Remedy(
    "Initialise with Xavier",
    "for layer in model.layers:\n    nn.init.xavier_normal_(layer.weight)\n",
    "Glorot & Bengio 2010",
    "signals keep their scale",
)
STALLED = Finding("not-learning", Severity.WARNING, 60, "The loss stays at 2.3.", readings=(Reading("loss", 2.3, 2.3),))
POOR = Finding(
    "poor-initialization",
    Severity.WARNING,
    1,
    "Activations shrink to 0.3× per layer.",
    LAYERS[:4],
    (Reading("signal at the last layer", 0.002, 0.17), Reading("weight std of fc0", 0.01, 0.5, "w", (1, 1))),
    0.95,
    (INITIALISE, NORMALISE),
    (STALLED,),
)
DEAD = Finding(
    "dead-units", Severity.ERROR, 12, "97 % of the units of fc1 are silent.", ("fc1",), (Reading("share", 0.97, 0.5),)
)


def verdict() -> Diagnosis:
    skipped = (Skipped("fewer than 4 validation losses", "overfitting"), Skipped("too early", "loss-plateau"))
    return Diagnosis(STEPS, (POOR, DEAD), skipped)


def facts_of(names: tuple[str, ...], model: str = "Classifier") -> Facts:
    parameters = tuple(
        Parameter(f"{name}.{role}", name, (64, 64) if role == "weight" else (64,), role, group=0)
        for name in names
        for role in ("weight", "bias")
    )
    layers = tuple(Layer(name, "linear", "Linear", "", 64, 64, 64, "relu", called=True) for name in names)
    return Facts(model, layers, parameters, (Group("Adam", 0, 1e-3),), Loss("cross-entropy"), True, 32)


def recorded(history: History, steps: range, factor: float) -> None:
    """Every statistic of netdoctor at ``steps``, shrinking by ``factor`` from layer to layer."""
    columns = {
        "layer": [layer.name for layer in history.facts.layers],
        "parameter": [parameter.name for parameter in history.facts.parameters],
        "group": ["0"],
        "run": [""],
    }
    random = np.random.default_rng(0)
    for step in steps:
        for statistic in STATISTICS.values():
            if "_quantile_" in statistic.name:
                continue  # recorded by `quantiles`, at a few steps
            names = columns[statistic.site]
            scale = factor ** np.arange(len(names)) * random.uniform(0.5, 1, len(names))
            if statistic.name.startswith(("non_finite", "gradient_missing")):
                scale = np.zeros(len(names))
            if statistic.name in ("cosine", "gradient_cosine", "input_mean"):
                scale = random.uniform(-1, 1, len(names))
            history.record(step, statistic.name, scale, tuple(names))


def quantiles(history: History, steps: tuple[int, ...]) -> None:
    names = tuple(layer.name for layer in history.facts.layers)
    for step in steps:
        for level in QUANTILES:
            at = NormalDist().inv_cdf(int(level) / 100) * 0.5 ** np.arange(len(names)) * (1 + step / 60)
            history.record(step, f"activation_quantile_{level}", at, names)
            history.record(step, f"activation_gradient_quantile_{level}", at[::-1] * 1e-3, names)


def healthy() -> History:
    history = History(facts_of(LAYERS))
    recorded(history, range(1, STEPS + 1), 1.0)
    return history


def sick() -> History:
    history = History(facts_of(LAYERS))
    recorded(history, range(1, STEPS + 1), 0.3)
    quantiles(history, (1, 2, 4, 8, 16, 32))
    return history


def large(layers: int, steps: int = 40) -> History:
    history = History(facts_of(tuple(f"blocks.{place}.layer" for place in range(layers)), "Large"))
    recorded(history, range(1, steps + 1), 0.999)
    return history
