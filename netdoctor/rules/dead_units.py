"""ReLU units that give no output for any input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.derived import of_facts
from netdoctor.facts import Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import Progress, first_updates, progress
from netdoctor.rules.base import rule

RECTIFIED = ("relu", "relu6")  # 0 with slope 0 below 0; leaky_relu, elu, gelu and silu let gradients through
RECENT = 3  # samples in which a whole layer must be silent


@rule(
    Severity.WARNING,
    explains=("representation-collapse", "covariate-shift", "underfitting", "loss-plateau", "not-learning"),
)
def dead_units(
    history: History,
    *,
    whole: float = 0.98,  # of a layer's units: no signal passes; seen in none of 120 healthy runs
    most: float = 0.9,  # of a layer's units, where training stalls; an autoencoder may start with 0.88 and learn
    patience: int = 20,  # losses before a training counts as stalled
    many: float = 0.25,  # of a layer's units: worth fresh weights as well (healthy median 0.11)
    update: float = 0.1,  # of a weight's norm in a step: such steps kill units (healthy median 0.002, at most 0.1)
) -> Iterator[Evidence | Skipped]:
    """Units of a ReLU layer are silent on every input: they get no gradient and do not come back.

    ## What it looks at
    The share of units without any output above 0 in the last 10 samples of each layer whose output goes through a
    ReLU; where the batch is 16 or more, the last 3 samples are enough. It speaks where nothing was learned: at once
    where a whole layer is silent, at nine units of ten where training stalls.

    ## Why it matters
    A silent ReLU unit has gradient 0, so nothing moves it. A silent layer stops every gradient of the layers below it:
    the model answers the same to every input.

    ## When it is wrong
    Many silent units are harmless in a net that learns: up to 88 % in healthy ones. A silent layer beside a skip
    connection stops only its own branch. Without any signal from below (tiny weights or inputs) half the units are
    silent, by the sign of their bias, and with weights of zero all; that is another disease.

    ## References
    Maas et al. 2013. He et al. 2015. Lu et al. 2020, Dying ReLU and initialization. SageMaker Debugger, DeadRelu.
    """
    layers = _rectified(history.facts)
    if not layers:
        return
    if not len(history.table("silent_share")):
        yield Skipped("no activations measured yet")
        return
    silent = _lowest(history, "silent_share", RECENT, min(whole, most, many))
    if not silent:
        return
    dead, sizes = _lowest(history, "dead_share", 1, 0.0), history.latest("activation_rms")
    course = progress(history)
    if course is not None and course.learned:
        return
    several = history.facts.batch >= 16  # else a batch may leave a few units silent by chance
    shares = {
        layer: share
        for name in silent
        if (layer := layers.get(name)) is not None and sizes.get(layer.name) != 0  # a signal to be silent to
        if name in dead or (layer.units >= 8 and several)
        if (share := min(silent[name], dead.get(name, 1.0))) >= min(whole, most, many)
    }
    gone = [layer for layer, share in shares.items() if share >= whole]
    stalled = course is not None and course.stalled and course.steps >= patience
    found = gone or [layer for layer, share in shares.items() if stalled and share >= most]
    if not found:
        return
    yield Evidence(
        message=_message(found, shares, course, bool(gone)),
        layers=tuple(layer.name for layer in found),
        readings=tuple(
            Reading(f"share of silent units of {layer.name}", shares[layer], whole if gone else most) for layer in found
        ),
        confidence=0.9 if gone and course is not None else 0.75,
        remedies=_remedies(history, found, [layer.name for layer, share in shares.items() if share >= many], update),
    )


@of_facts
def _rectified(facts: Facts) -> dict[str, Layer]:
    """Layers before a ReLU, by the layer whose output is watched: itself, or the module of a ReLU6."""
    watched: dict[str, Layer] = {}
    known = {layer.name: layer for layer in facts.layers if layer.called}
    for layer in known.values():
        if layer.kind != "activation" and layer.nonlinearity in RECTIFIED:
            watched[layer.name] = layer
        elif layer.function in RECTIFIED and not any(source in watched for source in layer.inputs):
            watched[layer.name] = known.get(layer.inputs[0], layer) if len(layer.inputs) == 1 else layer
    return watched


def _lowest(history: History, statistic: str, samples: int, least: float) -> dict[str, float]:
    """The lowest of each column's last readings, ``least`` or more; columns not seen in all of them are left out."""
    rows = history.window(statistic, samples)
    columns = history.table(statistic).columns
    low = rows.min(0) if len(rows) else np.zeros(0)
    return {columns[place]: float(low[place]) for place in np.flatnonzero((low >= least) & (low < np.inf))}


def _message(found: list[Layer], shares: dict[Layer, float], course: Progress | None, gone: bool) -> str:
    first = found[0]
    share = (
        f"All {first.units or ''} units".replace("  ", " ")
        if shares[first] == 1
        else f"{shares[first]:.0%} of the units"
    )
    more = f" (and of {len(found) - 1} more)" if len(found) > 1 else ""
    text = f"{share} of {spoken(first.name)}{more} give no output above 0 for any input: "
    text += "no gradient passes" if gone else "no gradient reaches them"
    if course is not None:
        constant = "" if course.constant is None else f", a constant prediction has {course.constant:.3g}"
        text += f"; the loss is {course.recent:.3g}{constant}"
    return text + "."


def _remedies(history: History, found: list[Layer], ill: list[str], update: float) -> tuple[Remedy, ...]:
    """By evidence: steps that were too large, else weights and biases; a slope for silent units in any case."""
    facts, names = history.facts, {*ill, *(layer.name for layer in found)}
    leaky = remedies.replace_by_leaky_relu(
        [layer.name for layer in facts.layers if layer.function in RECTIFIED and (names & {layer.name, *layer.inputs})]
    )
    weighted = [layer.name for layer in facts.layers if layer.called and layer.kind in ("linear", "conv")]
    typical = first_updates(history)
    bare = _output_rectifier(facts, found)
    if bare:
        return remedies.remove_activation([bare], "ReLU"), leaky
    if typical >= update and weighted:
        return remedies.start_again(facts, weighted, remedies.slower(typical)), leaky
    fresh = [name for name in weighted if name in ill]
    if not all(layer.name in fresh for layer in found):  # a normalisation's bias, which fresh weights do not cure
        return (leaky,)
    return remedies.initialise(facts, fresh), leaky


def _output_rectifier(facts: Facts, found: list[Layer]) -> str:
    """The module of a ReLU whose output no layer takes: what it may not give is what the loss asks for; "" none."""
    if len(found) != 1:
        return ""
    read = {source for layer in facts.layers if layer.called for source in layer.inputs}
    after = [layer.name for layer in facts.layers if layer.kind == "activation" and found[0].name in layer.inputs]
    return after[0] if len(after) == 1 and after[0] not in read else ""


_FACTS = Facts(
    layers=(
        Layer("0", "linear", "Linear", "", 64, 64, 64, "relu", (), called=True),
        Layer("1", "activation", "ReLU", "relu", inputs=("0",), nonlinearity="identity", called=True),
        Layer("2", "linear", "Linear", "", 64, 10, 10, "log_softmax", ("1",), called=True),
    ),
    batch=64,
)


def _run(silent: float, dead: float, loss: list[float], function: str = "relu") -> History:
    layer = Layer("0", "linear", "Linear", "", 64, 64, 64, function, (), called=True)
    facts = _FACTS.with_changes(layers=(layer, *_FACTS.layers[2:]))
    count = len(loss)
    return History.of(
        facts,
        silent_share={"0": [silent] * count},
        dead_share={"0": [dead] * count},
        loss=loss,
        constant_loss=[2.3] * count,
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _run(1.0, 1.0, [2.3] * 12),
        _run(0.95, 0.92, [2.3] * 40),
        History.of(_FACTS, silent_share={"0": [1.0] * 3}, loss=[2.3] * 3),  # from the first steps on
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _run(0.02, 0.0, [2.3 * 0.95**i for i in range(40)]),
        _run(0.88, 0.88, [2.3 * 0.95**i for i in range(40)]),  # sparse and healthy
        _run(0.5, 0.5, [2.3] * 40),  # no signal from below: not this
        _run(1.0, 1.0, [2.3] * 40, "leaky_relu"),
        _run(0.0, 1.0, [2.3] * 40),  # NaN, which is no silence
        History.of(
            _FACTS, silent_share={"0": [1.0] * 3}, activation_rms={"0": [0.0] * 3}, loss=[2.3] * 3
        ),  # zero weights
        History.of(_FACTS, loss=[2.3]),  # too early
    )
