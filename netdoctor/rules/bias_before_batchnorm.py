"""Biases that the next batch norm takes away."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor import remedies, wiring
from netdoctor.derived import of_facts
from netdoctor.facts import Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.NOTE)
def bias_before_batchnorm(
    history: History,
    *,
    samples: int = 1,  # gradients seen
) -> Iterator[Evidence | Skipped]:
    """A layer has a bias and feeds a batch norm, which subtracts the mean and the bias with it.

    ## What it looks at
    Linear layers and convolutions with a bias whose output goes to a batch norm and nowhere else, and the gradients of
    these biases, which are zero but for rounding.

    ## Why it matters
    The bias can change nothing: the batch norm has one of its own. It costs memory, an optimizer state, and confuses
    whoever looks at its gradient.

    ## When it is wrong
    It costs little, hence a note. In evaluation mode the bias counts again: frozen batch norms are left out.

    ## References
    Ioffe & Szegedy 2015, section 3.2.
    """
    facts = history.facts
    table = history.table("gradient_rms")
    if len(table) < samples or not any(layer.called for layer in facts.layers):
        yield Skipped("no gradient seen yet")
        return
    found = [
        (layer, norm, bias)
        for layer, norm, bias in _pairs(facts)
        if bias.trainable and not history.latest("evaluation_mode").get(norm.name)
    ]
    if not found:
        return
    gradients = history.latest("gradient_rms")
    layer, norm, bias = found[0]
    weight = facts.weight(layer.name)
    of_bias, of_weight = gradients.get(bias.name), gradients.get(weight.name) if weight is not None else None
    seen = (
        f": its gradient is {of_bias:.1g}, that of the weight {of_weight:.1g}"
        if of_bias is not None and of_weight is not None
        else ""
    )
    names = tuple(layer.name for layer, *_ in found)
    count = sum(bias.size for *_, bias in found)
    others = f", and {len(found) - 1} more likewise ({count:,} values)" if len(found) > 1 else ""
    yield Evidence(
        message=f"The bias of {spoken(layer.name)} is taken away again by the batch norm {spoken(norm.name)}{seen}"
        f"{others}.",
        layers=names,
        readings=(
            Reading("biases before a batch norm", float(len(found)), 0.0),
            *((Reading(f"gradient of {bias.name}", of_bias, None, "loss/w"),) if of_bias is not None else ()),
        ),
        confidence=0.95,
        remedies=(_remove([(layer.name, norm.name) for layer, norm, _ in found]),),
    )


@of_facts
def _pairs(facts: Facts) -> list[tuple[Layer, Layer, Parameter]]:
    layers, after = {layer.name: layer for layer in facts.layers}, wiring.consumers(facts)
    biases = {parameter.layer: parameter for parameter in facts.parameters if parameter.name.endswith("bias")}
    found = []
    for norm in facts.layers:
        layer = layers.get(norm.inputs[0]) if len(norm.inputs) == 1 else None
        if layer is None or not (wiring.is_batch_norm(norm) and norm.called and norm.straight) or norm.dropouts:
            continue
        alone = not layer.residual and len(after[layer.name]) == 1
        if layer.kind in ("linear", "conv") and layer.name in biases and alone:
            found.append((layer, norm, biases[layer.name]))
    return found


def _remove(pairs: list[tuple[str, str]]) -> Remedy:
    return Remedy(
        action=f"Leave the bias out: {pairs[0][0]} with bias=False",
        code=f"for name in {remedies.names_code([name for name, _ in pairs])}:\n"
        "    model.get_submodule(name).bias = None  # in a model that was trained: subtract it from running_mean first",
        source="Ioffe & Szegedy 2015, section 3.2",
        effect="the same outputs with fewer parameters",
        treatment=remedies.remove_biases(pairs),
    )


def _history(bias: bool, norm: str = "BatchNorm2d") -> History:
    layers = (
        Layer("0", "conv", "Conv2d", units=8, called=True),
        Layer("1", "norm", norm, inputs=("0",), straight=True, called=True),
    )
    parameters = (Parameter("0.weight", "0", (8, 1, 3, 3), "weight"), Parameter("0.bias", "0", (8,), "bias"))
    facts = Facts(layers=layers, parameters=parameters[: 1 + bias])
    return History.of(facts, gradient_rms={p.name: [1e-9 if p.role == "bias" else 0.1] for p in facts.parameters})


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(True),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(False),  # healthy
        _history(True, "GroupNorm"),  # groups of several channels keep the differences between biases
        History(_history(True).facts),  # too early
    )
