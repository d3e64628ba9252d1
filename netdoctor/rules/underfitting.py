"""The model is too weak for the task: training and validation loss are both flat and high."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.facts import WEIGHTED, Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import UNTOLD, progress
from netdoctor.rules.base import rule
from netdoctor.trends import noise


@rule(Severity.WARNING, explains=("loss-plateau", "not-learning"))
def underfitting(
    history: History,
    *,
    patience: int = 150,  # steps
    floor: float = 0.1,  # of the constant prediction's loss: below, there is little left to learn
    pace: float = 0.2,  # of the loss: what it may have fallen over the last half, its noise included: along a power
    # law twice the steps then take off 0.3 of it; it would be 0.3 before one of 466 healthy runs passed for flat
    structure: float = 0.3,  # correlation of neighbours' errors: 0.12 with 2/3 noise, 0.26 with a fifth of labels wrong
    plain: float = 0.5,  # the same where no layer is that narrow, for then it may be other things; healthy runs 0.39
    kept: float = 0.5,  # of the correlation at the start: so much of the structure is still in the errors
    samples: int = 6,  # of it since the loss is flat: 32 pairs each, known to 0.08
    gap: float = 0.15,  # of the constant prediction's loss, between validation and training: more is overfitting
    agreeing: float = 0.25,  # cosine of successive gradients: above, the learning rate is the limit
    narrow: int = 2,  # units of the narrowest layer: so few explain a training that got nowhere at all
) -> Iterator[Evidence | Skipped]:
    """The loss is flat and high on training and validation data alike, though the inputs tell more than was learned.

    ## What it looks at
    The training loss over the last half of the run; the last validation loss; and whether samples whose inputs are
    close together have errors that are alike. Noise in the targets differs from neighbour to neighbour, what the model
    cannot express does not.

    ## Why it matters
    More epochs or data do not help: the model needs capacity, or less of what holds it back.

    ## When it is wrong
    Bottlenecks on purpose (a code of two numbers for a picture) are too narrow by design. Between far neighbours in
    many dimensions the correlation is weak even if there is structure: it is then not reported.

    ## References
    Goodfellow et al. 2016, Deep Learning, section 5.2. Miller et al. 1998, Lack-of-fit tests without replicates.
    """
    run = progress(history)
    steps, agreement = history.series("residual_agreement")
    val, own = history.series("val_loss")[1], history.series("val_constant_loss")[1]
    if run is None or run.constant is None or run.steps < patience:
        yield Skipped(UNTOLD if run is None or run.constant is None else f"fewer than {patience} steps")
        return
    if not len(val) or not len(own):
        yield Skipped("no validation loss seen")
        return
    if run.recent < floor * run.constant or run.gain < -floor:
        return
    losses = history.series("loss")[1]
    half = losses[len(losses) // 2 :]
    parts = max(len(half) // 3, 1)
    fall = float(half[:parts].mean() - half[-parts:].mean())
    if fall + 2 * noise(half) * (2 / parts) ** 0.5 > pace * abs(run.recent):
        return
    lately = agreement[steps > run.steps / 4]
    if len(lately) < samples:
        yield Skipped(f"fewer than {samples} samples of the errors' structure")
        return
    mean, error = float(lately.mean()), float(lately.std() / len(lately) ** 0.5)
    thin = _narrowest(history.facts)
    bound = structure if thin is None or thin.units <= narrow else plain
    if mean - error < bound or mean < kept * float(agreement[:5].mean()):
        return
    cosines = history.series("cosine")[1][-len(lately) :]
    if len(cosines) and float(np.mean(cosines)) > agreeing:
        return
    if not run.learned and not (thin is None or thin.units <= narrow):
        return
    if float(val[-1]) / float(own[-1]) - run.recent / run.constant > gap:
        return
    what = "the model is linear"
    if thin is not None:
        what = f"its narrowest layer, {spoken(thin.name)}, has {thin.units} units"
    yield Evidence(
        message=f"The loss stays at {run.recent:.3g}, {val[-1]:.3g} in validation ({run.constant:.3g} for a constant "
        f"prediction), and the errors of samples that are close together agree by {mean:.2f}, {bound:g} is much: "
        f"{what}.",
        layers=(thin.name,) if thin is not None and thin.name else (),
        readings=(
            Reading("correlation of neighbours' errors", mean, bound, "", (int(steps[-len(lately)]), run.steps)),
            Reading("training loss", run.recent, floor * run.constant, "loss", (run.steps // 2, run.steps)),
            Reading("validation loss", float(val[-1]), None, "loss"),
        ),
        confidence=0.8,
        remedies=(_widen(history.facts, thin),),
    )


def _narrowest(facts: Facts) -> Layer | None:
    """The hidden layer of the fewest units; None in a model without nonlinearity."""
    called = [layer for layer in facts.layers if layer.called and layer.kind in WEIGHTED]
    bent = any(
        x.kind in ("recurrent", "attention") or x.function or x.nonlinearity not in ("", "identity")
        for x in facts.layers
        if x.called
    )
    hidden = [layer for layer in called if layer.units and layer.name != facts.loss.layer]
    return min(hidden, key=lambda layer: layer.units) if hidden and bent else None


def _widen(facts: Facts, thin: Layer | None) -> Remedy:
    source = "Goodfellow et al. 2016, Deep Learning, section 11.3"
    if thin is not None:
        return Remedy(
            f"Widen {spoken(thin.name)} from {thin.units} units to {max(4 * thin.units, 32)}, and what follows with it",
            f"# {spoken(thin.name)}: {thin.type}({thin.fan_in or 'inputs'}, {max(4 * thin.units, 32)})",
            source,
            "training loss falls below what it was stuck at",
        )
    last = next((layer for layer in facts.layers if layer.name == facts.loss.layer), None)
    inputs, outputs = (last.fan_in, last.units) if last is not None else (64, 1)
    return Remedy(
        "Add hidden layers with a nonlinearity",
        f"model = nn.Sequential(nn.Linear({inputs}, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), "
        f"nn.Linear(64, {outputs}))",
        source,
        "functions that no line can follow",
    )


_ALIKE = [0.6 + 0.05 * (i % 3) for i in range(200)]


def _history(loss: list[float], agreement: list[float], val: float | None = 0.5, units: int = 1) -> History:
    layers = (
        Layer("0", "linear", "Linear", "", 10, units, units, "tanh", called=True),
        Layer("2", "linear", "Linear", "", units, 1, 1, called=True),
    )
    facts = Facts(layers=layers, loss=Loss("mse", layer="2"))
    count = len(loss)
    history = History.of(
        facts, loss=loss, constant_loss=[1.0] * count, residual_agreement=agreement[:count], cosine=[0.0] * count
    )
    if val is not None:
        history.record(count, "val_loss", [val])
        history.record(count, "val_constant_loss", [1.0])
    return history


_FLAT = [0.4 + 0.02 * ((7 * i) % 5 - 2) for i in range(200)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(_FLAT, _ALIKE), _history([0.6 + loss for loss in _FLAT], _ALIKE, 1.05))


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([0.98**i for i in range(200)], _ALIKE, 0.02),  # healthy
        _history([0.01] * 200, _ALIKE, 0.01),  # converged
        _history(_FLAT, [0.1 * (i % 3) for i in range(200)]),  # the rest is noise
        _history(_FLAT, _ALIKE, 0.9),  # overfitting
        _history(_FLAT, _ALIKE, None),  # no validation
        _history(_FLAT[:100], _ALIKE),  # too early
    )
