"""A batch norm that learns the variance of activations with holes."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor import wiring
from netdoctor.facts import Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.NOTE, explains=("train-val-mismatch",))
def dropout_before_batchnorm(
    history: History,
    *,
    least: float = 0.05,  # probability: below, the variance shifts by less than 5 %
    doubled: float = 1.0,  # added share of the variance from which it is a warning: outputs shrink by a third and more
) -> Iterator[Evidence | Skipped]:
    """Dropout feeds a batch norm directly: in evaluation the variance is not the one that was learned.

    ## What it looks at
    Dropout layers between a batch norm and the layer before it, with nothing that has weights in between.

    ## Why it matters
    In training dropout raises the variance of what it feeds by p/(1 - p) times its mean square; the batch norm gathers
    that variance and divides by it in evaluation, where dropout is off. Its outputs then come out too small.

    ## When it is wrong
    It costs little with small probabilities: a note below one half.

    ## References
    Li et al. 2019, Understanding the disharmony between dropout and batch normalization by variance shift, section 4.
    """
    facts = history.facts
    if not any(layer.called for layer in facts.layers):
        yield Skipped("no backward pass seen yet")
        return
    layers = {layer.name: layer for layer in facts.layers}
    off = wiring.switched_off(history)
    found: dict[str, Layer] = {}
    for layer in facts.layers:
        if wiring.is_batch_norm(layer) and layer.called and layer.name not in off:
            before = [layers[name] for name in _dropouts(layer, layers) if name in layers and name not in off]
            before = [dropout for dropout in before if dropout.rate >= least]
            if before:
                found[layer.name] = max(before, key=lambda dropout: dropout.rate)
    if not found:
        return
    norm, dropout = max(found.items(), key=lambda entry: entry[1].rate)
    share = dropout.rate / (1 - dropout.rate) if dropout.rate < 1 else float("inf")
    others = f" ({len(found)} batch norms)" if len(found) > 1 else ""
    yield Evidence(
        message=f"Dropout {dropout.rate:g} of {spoken(dropout.name)} feeds the batch norm {spoken(norm)} directly"
        f"{others}: in training its input has up to {1 + share:.2g} times the variance that it has in evaluation.",
        layers=tuple(dict.fromkeys(name for norm, drop in found.items() for name in (drop.name, norm))),
        readings=tuple(Reading(f"dropout before {norm}", drop.rate, least) for norm, drop in found.items()),
        confidence=0.8,
        severity=Severity.WARNING if share >= doubled else None,
        remedies=(_reorder([drop.name for drop in found.values()]),),
    )


def _dropouts(layer: Layer, layers: dict[str, Layer]) -> list[str]:
    """Names of the dropout layers before it, past nonlinearities."""
    found = list(layer.dropouts)
    for name in layer.inputs:
        if name in layers and layers[name].kind == "activation":
            found += layers[name].dropouts
    return found


def _reorder(names: list[str]) -> Remedy:
    lines = "\n".join(f'model.set_submodule("{name}", nn.Identity())' for name in dict.fromkeys(names))
    return Remedy(
        action="Put dropout behind the last batch norm: normalisation, nonlinearity, dropout, the next weights",
        code=f"{lines}\n# and nn.Dropout behind the last batch norm's nonlinearity, before the output layer",
        source="Li et al. 2019, section 5.1",
        effect="training and evaluation have the same variance",
        treatment=lambda model, optimizer: _remove(model, names),
    )


def _remove(model: object, names: list[str]) -> None:
    for name in names:
        model.get_submodule(name).p = 0.0  # type: ignore[attr-defined]


def _facts(type_: str, dropouts: tuple[str, ...]) -> Facts:
    layers = (
        Layer("0", "linear", "Linear", units=64, called=True),
        Layer("1", "dropout", "Dropout", inputs=("0",), called=True, rate=0.5),
        Layer("2", "norm", type_, inputs=("0",), called=True, dropouts=dropouts),
    )
    return Facts(layers=layers)


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (History(_facts("BatchNorm1d", ("1",))),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        History(_facts("BatchNorm1d", ())),  # healthy
        History(_facts("LayerNorm", ("1",))),  # knows no statistics of training
        History(),  # too early
    )
