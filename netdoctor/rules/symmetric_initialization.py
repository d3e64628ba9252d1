"""Units that start as copies of each other and stay so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = (
    "poor-initialization",
    "dead-units",
    "vanishing-gradient",
    "underfitting",
    "loss-plateau",
    "not-learning",
)


@rule(Severity.ERROR, explains=CAUSED)
def symmetric_initialization(
    history: History,
    *,
    updates: int = 2,  # after which copies must still be copies: one zero-initialised layer differs after the first
    equal: float = 1e-6,  # spread between units over their rms: float32 resolution with room for the order of sums
    share: float = 0.01,  # of the updates so far: units that learn apart differ by about as much as they moved
) -> Iterator[Evidence | Skipped]:
    """All units of a layer have the same weights, get the same gradient, and so stay copies of each other.

    ## What it looks at
    The spread of each weight between the units of its layer (of each gate in LSTM and GRU, of queries, keys, values),
    at the start and after two updates or more, against how far the updates moved it; and weights that are zero and have
    a gradient of exactly zero.

    ## Why it matters
    A layer of copies can compute no more than a layer of one unit; weights of zero behind or before others of zero
    never move at all.

    ## When it is wrong
    A zero-initialised last layer, residual branch or LoRA matrix gets different gradients for its units and leaves the
    symmetry within a step, so it is not reported. Random biases and dropout break the symmetry too, slowly.

    ## References
    Goodfellow et al. 2016, Deep Learning, section 8.4. TheDeepChecker, untrained-weight checks.
    """
    weights = [p for p in history.facts.parameters if p.role == "weight" and p.trainable]
    seen = history.table("weight_rms")
    if not weights or len(seen) <= updates:
        yield Skipped(f"fewer than {updates} updates seen")
        return
    spreads, lengths = (history.first("unit_spread"), history.first("gate_spread")), history.first("weight_rms")
    copies = [
        p
        for p in weights
        if min(spreads[0].get(p.name, 1.0), spreads[1].get(p.name, 1.0)) <= equal
        and _stay_equal(history, p.name, updates, equal, share)
    ]
    zeros = [p for p in weights if lengths.get(p.name) == 0 and _stay_zero(history, p.name, updates)]
    layers = tuple(dict.fromkeys(p.layer for p in weights if p in copies or p in zeros))
    if not layers:
        return
    what = [
        f"the weights of {len(group)} layer{'s' * (len(group) > 1)} {text}"
        for group, text in (
            (copies, "are the same for every unit"),
            (zeros, "are zero and get a gradient of exactly zero"),
        )
        if group
    ]
    sentence = " and ".join(what)
    yield Evidence(
        message=f"{sentence[0].upper()}{sentence[1:]} after {len(seen) - 1} measured updates, "
        f"first in {spoken(layers[0])}.",
        layers=layers,
        readings=(
            *(Reading(f"spread between units of {p.name}", _last(history, p.name), equal) for p in copies),
            *(Reading(f"rms of {p.name}", 0.0, unit="w") for p in zeros),
        ),
        confidence=0.95,
        remedies=_remedies(history.facts, layers),
    )


def _stay_equal(history: History, name: str, updates: int, equal: float, share: float) -> bool:
    """Whether the units were equal at first, were moved, and did not move apart."""
    moved = history.series("update_ratio", name)[1]
    if np.count_nonzero(moved) <= updates:
        return False
    way = float(moved[:-1].sum())
    for statistic in ("unit_spread", "gate_spread"):
        spread = history.series(statistic, name)[1]
        if len(spread) > updates and spread[0] <= equal and spread[-1] <= max(equal, share * way):
            return way >= 10 * equal
    return False


def _stay_zero(history: History, name: str, updates: int) -> bool:
    """Whether the weights were zero at every sample, and so was their gradient."""
    rms, gradient = history.series("weight_rms", name)[1], history.series("gradient_rms", name)[1]
    return len(gradient) > updates and len(rms) > updates and not rms.any() and not gradient.any()


def _last(history: History, name: str) -> float:
    ends = [history.series(statistic, name)[1][-1:] for statistic in ("unit_spread", "gate_spread")]
    return float(np.concatenate(ends).min())


def _remedies(facts: Facts, layers: tuple[str, ...]) -> tuple[Remedy, ...]:
    """Random weights by the std of each layer; layers of several weights by torch's own scheme."""
    plain = [name for name in layers if facts.layer(name).kind in ("linear", "conv")]
    composed = [name for name in layers if name not in plain]
    found: tuple[Remedy, ...] = (remedies.initialise(facts, plain),) if plain else ()
    if composed:
        method = {name: _reset_method(facts.layer(name)) for name in composed}
        found += (
            Remedy(
                action="Initialise at random, by torch's own scheme",
                code="\n".join(f'model.get_submodule("{name}").{call}()' for name, call in method.items()),
                source="Goodfellow et al. 2016, section 8.4",
                effect="each unit starts with weights of its own",
                treatment=lambda model, optimizer: _reset(model, method),
            ),
        )
    return found


def _reset_method(layer: Layer) -> str:
    return "_reset_parameters" if layer.kind == "attention" else "reset_parameters"


def _reset(model: Any, method: dict[str, str]) -> None:
    for name, call in method.items():
        getattr(model.get_submodule(name), call)()


def _weights(*names: str) -> Facts:
    return Facts(
        layers=tuple(Layer(name, "linear", "Linear", fan_in=8, fan_out=8, units=8, called=True) for name in names),
        parameters=tuple(Parameter(f"{name}.weight", name, (8, 8), "weight") for name in names),
    )


def _history(spread: dict[str, list[float]], **others: list[float]) -> History:
    """Of a weight a layer: its spread, and by default rms 1, updates of 1e-3 and gradients of 0.1."""
    readings = len(next(iter(spread.values())))
    names = [f"{name}.weight" for name in spread]
    given = {"weight_rms": 1.0, "update_ratio": 1e-3, "gradient_rms": 0.1}
    tables = {key: dict.fromkeys(names, others.get(key, [value] * readings)) for key, value in given.items()}
    tables["unit_spread"] = {f"{name}.weight": values for name, values in spread.items()}
    return History.of(_weights(*spread), None, **tables)


def _gates(spread: list[float]) -> History:
    facts = Facts(
        layers=(Layer("rnn", "recurrent", "LSTM", units=8, called=True),),
        parameters=(Parameter("rnn.weight_ih_l0", "rnn", (32, 8), "weight"),),
    )
    given = {"weight_rms": 1.0, "update_ratio": 1e-3, "gradient_rms": 0.1, "unit_spread": 0.1}
    tables = {name: {"rnn.weight_ih_l0": [value] * len(spread)} for name, value in given.items()}
    return History.of(facts, None, **tables, gate_spread={"rnn.weight_ih_l0": spread})


NAN = float("nan")


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history({"fc1": [0.0, 0.0, 1e-9, 2e-8], "fc2": [0.0, 1e-3, 2e-3, 3e-3]}),
        _gates([0.0, 0.0, 1e-9, 2e-8]),
        _history({"fc1": [NAN] * 4}, weight_rms=[0.0] * 4, update_ratio=[NAN] * 4, gradient_rms=[0.0] * 4),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history({"fc1": [1.0] * 20, "fc2": [0.98] * 20}),  # healthy
        _history({"head": [0.0, 1e-3, 2e-3, 3e-3]}),  # equal at first, not for long
        _history({"b": [NAN, 0.9, 0.9, 0.9]}, weight_rms=[0.0, 1e-3, 2e-3, 3e-3]),  # LoRA's B
        _gates([0.9] * 4),
        _history({"fc1": [0.0, 0.0]}),  # too early
        _history({"fc1": [0.0] * 4}, update_ratio=[0.0] * 4),  # a learning rate of 0
    )
