"""The table of the layers: what the model is made of, and which layers are ill."""

from __future__ import annotations

from dataclasses import dataclass

from netdoctor.facts import Facts, Parameter
from netdoctor.reporters.html.cards import Card
from netdoctor.reporters.html.naming import layer_named


@dataclass(frozen=True)
class LayerRow:
    """One layer, and the findings that name it: title, anchor and severity of each."""

    name: str
    type: str
    nonlinearity: str
    shape: str
    parameters: int
    remarks: str
    findings: tuple[tuple[str, str, str], ...]


def layer_rows(facts: Facts, shown: tuple[Card, ...]) -> tuple[LayerRow, ...]:
    """The layers in the order of execution, then modules that only own parameters."""
    owned: dict[str, list[Parameter]] = {layer.name: [] for layer in facts.layers}
    for parameter in facts.parameters:
        owned.setdefault(parameter.layer, []).append(parameter)
    findings: dict[str, list[tuple[str, str, str]]] = {}
    for card in shown:
        for part in (card, *card.symptoms):
            for name in part.finding.layers:
                findings.setdefault(name, []).append((part.title, card.anchor, part.severity))
    known = {layer.name: layer for layer in facts.layers}
    traced = any(layer.called for layer in facts.layers)
    rows = []
    for name, parameters in owned.items():
        layer = known.get(name)
        rows.append(
            LayerRow(
                name=layer_named(name),
                type=layer.type or layer.kind if layer else "parameters",
                nonlinearity=layer.function or layer.nonlinearity if layer else "",
                shape=f"{layer.fan_in:,} → {layer.units:,}" if layer and layer.fan_in else "",
                parameters=sum(parameter.size for parameter in parameters),
                remarks=_remarks(
                    parameters, bool(layer and layer.residual), bool(layer and traced and not layer.called)
                ),
                findings=tuple(findings.get(name, ())),
            )
        )
    return tuple(rows)


def _remarks(parameters: list[Parameter], residual: bool, idle: bool) -> str:
    frozen = [p for p in parameters if not p.trainable]
    held = any(p.group is not None for p in parameters)
    said = [
        "residual" if residual else "",
        "not called" if idle else "",
        ("frozen" if len(frozen) == len(parameters) else "partly frozen") if frozen else "",
        "not part of the loss" if any(p.connected is False for p in parameters) else "",
        "" if held or not parameters or len(frozen) == len(parameters) else "in no optimizer",
    ]
    return ", ".join(remark for remark in said if remark)


def about_model(facts: Facts) -> tuple[str, ...]:
    """The model and its training in a few short phrases."""
    size = sum(parameter.size for parameter in facts.parameters)
    optimizers = dict.fromkeys(f"{group.optimizer}, lr {group.learning_rate:.3g}" for group in facts.groups)
    said = [
        f"{len(facts.layers):,} layers" if facts.layers else "",
        f"{size:,} parameters" if size else "",
        "; ".join(list(optimizers)[:3]),
        facts.loss.kind.replace("-", " "),
        f"batches of {facts.batch}" if facts.batch else "",
    ]
    return tuple(phrase for phrase in said if phrase)
