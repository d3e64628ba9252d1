"""Weight layers in a row with nothing between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from netdoctor import remedies, wiring
from netdoctor.derived import of_facts
from netdoctor.facts import WEIGHTED, Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule

CAUSED = ("learning-rate-too-large", "covariate-shift", "underfitting", "loss-plateau", "not-learning")
Pair = tuple[Layer, Layer]


@rule(Severity.WARNING, explains=CAUSED)
def missing_nonlinearity(
    history: History,
    *,
    narrow: float = 1.0,  # of the smaller of inputs and outputs: a layer below is a factorisation, which saves weights
) -> Iterator[Evidence | Skipped]:
    """Linear layers or convolutions follow each other directly: together they can do no more than one of them.

    ## What it looks at
    The operations between weight layers in the autograd graph: pairs with nothing but linear ones in between
    (reshaping, average pooling, dropout, and batch norms where this is the habit of the model), whose first layer is
    used nowhere else and is no bottleneck.

    ## Why it matters
    A product of matrices is a matrix: the depth is lost, and with it every function that one linear layer cannot
    express.

    ## When it is wrong
    Left alone are factorisations (low rank, depthwise and separable convolutions, ALBERT's embedding), layers that are
    also used elsewhere, and an embedding that ends one part of the model before another, or a head, begins. A network
    without any nonlinearity and with weights of its author's choice is a study of deep linear networks: a note, unless
    it stalls.

    ## References
    Goodfellow et al. 2016, Deep Learning, section 6.1 (learning XOR). UMLAUT; NeuraLint. Saxe et al. 2014, Exact
    solutions to the nonlinear dynamics of learning in deep linear neural networks.
    """
    facts = history.facts
    if not any(layer.called for layer in facts.layers):
        yield Skipped("no backward pass seen yet")
        return
    pairs = [pair for pair in _pairs(facts, narrow) if not _interface(*pair)]
    if not pairs:
        return
    names = tuple(first.name for first, _ in pairs)
    study = _linear(facts, pairs) and not all(
        wiring.untrained(history, weight) for first, _ in pairs if (weight := facts.weight(first.name)) is not None
    )
    run = progress(history) if study else None
    involved = len({layer.name for pair in pairs for layer in pair})
    between = ", nor between ".join(f"{spoken(first.name)} and {spoken(second.name)}" for first, second in pairs[:2])
    more = f", nor between {len(pairs) - 2} more" if len(pairs) > 2 else ""
    yield Evidence(
        message=f"No nonlinearity stands between {between}{more}: {involved} layers with weights compute what "
        f"{involved - len(pairs)} could.",
        layers=names,
        readings=(Reading("pairs of linear layers with nothing between", float(len(pairs)), 0.0),),
        confidence=0.9,
        severity=Severity.NOTE if study and not (run is not None and run.stalled) else None,
        remedies=(_insert(names),),
    )


@of_facts
def _pairs(facts: Facts, narrow: float) -> list[Pair]:
    """Layers whose output goes to one or several others and nowhere else, straight; with the first of these."""
    layers, after = {layer.name: layer for layer in facts.layers}, wiring.consumers(facts)
    pairs: list[Pair] = []
    normed: list[Pair] = []
    for name, others in after.items():
        first, weight = layers.get(name), facts.weight(name)
        others = [other for other in others if other.kind != "dropout"]
        norms = [other for other in others if other.straight and wiring.is_batch_norm(other)]
        if norms and norms == others:
            others = [other for norm in norms for other in after.get(norm.name, ()) if other.kind != "dropout"]
        if first is None or weight is None or first.residual or not _plain(first, weight):
            continue
        weights = [(other, facts.weight(other.name)) for other in others]
        straight = [(other, w) for other, w in weights if other.straight and w is not None and _plain(other, w)]
        if len(straight) < len(others) or any(other.name == name for other in others):
            continue
        if first.units < narrow * min(wiring.inputs(first, weight), sum(other.units for other, _ in straight)):
            continue
        if not any(_separable(weight, w) for _, w in straight):
            (normed if norms else pairs).append((first, straight[0][0]))
    return pairs + normed * (len(normed) > 1)  # one batch norm may end an embedding


def _plain(layer: Layer, weight: Parameter) -> bool:
    """Whether it is a linear layer or an ordinary convolution."""
    if layer.kind not in ("linear", "conv") or not layer.called or "Transpose" in layer.type:
        return False
    return layer.type != "Bilinear" and wiring.groups(layer, weight) == 1


def _separable(first: Parameter, second: Parameter) -> bool:
    """Whether two kernels run along different axes."""
    a, b = first.shape[2:], second.shape[2:]
    if len(a) != len(b):
        return False
    return max(a, default=1) > 1 < max(b, default=1) and all(min(p) == 1 for p in zip(a, b, strict=True))


def _interface(first: Layer, second: Layer) -> bool:
    """Whether one part of the model ends with the first layer and another, or a head alone, begins with the second."""
    a, b = first.name.split("."), second.name.split(".")
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
    if len(a) == len(b) == place + 1:
        return False
    blocks = a[place].isdigit() and b[place].isdigit() and len(b) > place + 1  # alike, one behind the other
    return not blocks


def _linear(facts: Facts, pairs: Sequence[Pair]) -> bool:
    """Whether the whole model is linear."""
    called = [layer for layer in facts.layers if layer.called]
    weighted = [layer for layer in called if layer.kind in WEIGHTED]
    bent = any(layer.function or layer.nonlinearity not in ("", "identity") for layer in called)
    return (
        not bent
        and all(layer.kind in ("linear", "conv", "dropout") for layer in called)
        and (len(weighted) == len(pairs) + 1)
    )


def _insert(names: Sequence[str]) -> Remedy:
    return Remedy(
        action=f"Put a ReLU behind {' and '.join(map(spoken, names)) if len(names) < 4 else 'each of these layers'}",
        code=f"for name in {remedies.names_code(names)}:\n"
        "    model.set_submodule(name, nn.Sequential(model.get_submodule(name), nn.ReLU()))\n"
        "# or in forward: x = F.relu(layer(x))",
        source="Glorot, Bordes & Bengio 2011, Deep sparse rectifier neural networks",
        effect="the depth counts",
        treatment=remedies.insert_nonlinearity(names).treatment,
    )


def _facts(nonlinearity: bool, width: int = 48, fan_in: int = 10, **changes: Any) -> Facts:
    first = Layer("first", "linear", "Linear", "", fan_in, width, width, called=True)
    relu = Layer("relu", "activation", "ReLU", "relu", inputs=("first",), called=True, straight=True)
    source = "relu" if nonlinearity else "first"
    second = Layer("second", "linear", "Linear", "", width, 48, 48, inputs=(source,), straight=True, called=True)
    parameters = (
        Parameter("first.weight", "first", (width, fan_in), "weight"),
        Parameter("second.weight", "second", (48, width), "weight"),
    )
    return Facts(layers=(first, *((relu,) if nonlinearity else ()), second), parameters=parameters, **changes)


def _history(facts: Facts, std: float = 0.1826) -> History:
    return History.of(facts, loss=[2.3], weight_std={"first.weight": [std], "second.weight": [0.0833]})


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(_facts(False)),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(_facts(True)),  # healthy
        _history(_facts(False, width=4)),  # a factorisation
        _history(_facts(False), std=0.32),  # a deep linear network, initialised on purpose: a note
        History(),  # too early
    )
