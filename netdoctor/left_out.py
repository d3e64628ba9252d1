"""Parameters that no optimizer moves: forgotten, frozen, unknown to the model, or at a rate next to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.wiring import untrained

FROZEN = 5  # samples without any gradient, before the first one, that show that layers were frozen


def forgotten(history: History, steps: int, most: float, patience: int) -> Iterator[Evidence]:
    """Trainable parameters that get gradients and belong to no optimizer, after so many steps.

    A warning where their weights are still those of torch's initialisation, most of a model that does not learn, or
    were frozen at first: who thaws them wants them to learn, and an optimizer made before does not know of them.
    """
    facts, table = history.facts, history.table("gradient_rms")
    outside = [p for p in facts.parameters if p.group is None and p.trainable]
    if not outside or history.step < steps or not any(p.group is not None for p in facts.parameters):
        return
    alive = set(np.array(table.columns)[(table.values > 0).any(0)].tolist()) if len(table) else set()
    outside = [p for p in outside if p.name in alive]
    if not outside:
        return
    share = sum(p.size for p in outside) / max(sum(p.size for p in facts.parameters if p.trainable), 1)
    state = progress(history) if share > most and history.step >= patience else None
    random = _random(history, outside)
    thawed = _thawed(history, outside, steps)
    kept = "; they stay at the random weights that they began with" if random else ""
    names = tuple(dict.fromkeys(p.layer for p in outside))
    yield Evidence(
        message=f"No optimizer holds {_count(outside)} of {_layers(names)}, {share:.0%} of the model, though they get "
        f"gradients{f' since step {thawed}, having been frozen before' if thawed else kept}",
        layers=names,
        readings=(Reading("share of the model outside every optimizer", share, most, "", (1, history.step)),),
        severity=Severity.WARNING if random or thawed or (state is not None and state.stalled) else Severity.NOTE,
        confidence=0.9 if random or thawed else 0.7,
        remedies=(
            remedies.add_missing_parameters([p.name for p in outside]),
            Remedy(
                "Or freeze them, if that is meant: their gradients cost time",
                "\n".join(f"model.get_parameter({p.name!r}).requires_grad_(False)" for p in outside[:20]),
            ),
        ),
    )


def _thawed(history: History, outside: Sequence[Parameter], steps: int) -> int:
    """First sampled step with gradients of all of ``outside`` that had none before; 0 unless so many steps ago."""
    table = history.table("gradient_rms")
    seen = np.isfinite(table.values[:, [table.place[p.name] for p in outside]])
    begin = int(np.argmax(seen.all(1)))
    if begin < FROZEN or seen[:begin].any() or not seen[begin:].all():
        return 0
    since = int(table.steps[begin])
    return since if history.step - since >= steps else 0


def frozen(history: History, samples: int, most: float) -> Iterator[Evidence]:
    """Most of the weights are frozen as torch initialised them: a warning where the output layer is among them."""
    facts = history.facts
    weights = [p for p in facts.parameters if p.role == "weight"]
    still = [p for p in weights if not p.trainable]
    share = sum(p.size for p in still) / max(sum(p.size for p in weights), 1)
    if len(still) < 2 or share <= most or len(history.table("weight_rms")) < samples or not _random(history, still):
        return
    names = tuple(dict.fromkeys(p.layer for p in still))
    last = facts.loss.layer in names
    yield Evidence(
        message=f"{_layers(names)}, with {share:.0%} of the weights, are frozen at the random values they began with"
        + (", the output layer among them" if last else ""),
        layers=names,
        readings=(Reading("share of the weights that are frozen", share, most, "", (1, history.step)),),
        severity=Severity.WARNING if last else Severity.NOTE,
        confidence=0.85 if last else 0.6,
        remedies=(
            Remedy(
                "Let them learn",
                f"for name in {remedies.names_code(names)}:\n"
                "    layer = model.get_submodule(name).requires_grad_(True)\n"
                '    optimizer.add_param_group({"params": layer.parameters()})',
                effect="the loss falls below what fixed random features allow",
                treatment=remedies.unfreeze(names),
            ),
            Remedy("Or load the trained weights that were meant", 'model.load_state_dict(torch.load("trained.pt"))'),
        ),
    )


def strangers(facts: Facts, step: int, steps: int) -> Iterator[Evidence]:
    """Parameters between the layers that neither the model nor an optimizer knows."""
    if not facts.strangers or step < steps:
        return
    yield Evidence(
        message=f"{facts.strangers} parameters between the layers of the model are used, but neither the model nor any "
        f"optimizer knows of them after {step} steps: they stay as they were initialised",
        readings=(Reading("parameters that are not registered", float(facts.strangers), 0.0, "", (1, step)),),
        severity=Severity.WARNING,
        confidence=0.85,
        remedies=(
            Remedy(
                "Put layers into nn.ModuleList or nn.ModuleDict, not into a plain list or dict, and build the "
                "optimizer afterwards",
                "self.layers = nn.ModuleList(layers)  # in __init__, in place of self.layers = layers",
                "PyTorch documentation, torch.nn.ModuleList",
                "they learn, move between devices, and are saved",
                treatment=remedies.Procedure(remedies.register_lists),
            ),
        ),
    )


def crawling(history: History, steps: int, crawl: float, beside: float) -> Iterator[Evidence]:
    """Param groups whose learning rate leaves random weights where they are, while others move."""
    facts, ratios, rates = history.facts, history.table("update_ratio"), history.table("learning_rate")
    if len(facts.groups) < 2 or history.step < steps or not len(ratios) or not len(rates):
        return
    fastest = float(np.nanmax(rates.values))
    span = float(ratios.steps[-1] - ratios.steps[0] + 1)
    columns = {name: place for place, name in enumerate(ratios.columns)}
    for index in range(min(len(facts.groups), rates.values.shape[1])):
        mine = [p for p in facts.parameters if p.group == index and p.role == "weight" and p.name in columns]
        rate = float(np.nanmax(rates.values[:, index], initial=0.0))
        if not mine or rate * beside > fastest:
            continue
        seen = ratios.values[:, [columns[p.name] for p in mine]]
        way = float(np.nanmedian(np.nan_to_num(seen).mean(0))) * span
        if way > crawl or not _random(history, mine):
            continue
        names = tuple(dict.fromkeys(p.layer for p in mine))
        yield Evidence(
            message=f"{_layers(names)} learn at a rate of {rate:.3g} beside {fastest:.3g}: in {span:.0f} steps their "
            f"random weights moved by {way:.1g} of their size",
            layers=names,
            readings=(
                Reading("way of the weights over their size", way, crawl, "", (1, history.step)),
                Reading("learning rate of the param group", rate, fastest / beside),
            ),
            severity=Severity.WARNING,
            confidence=0.8,
            remedies=(_raise(index, fastest, [p.name for p in mine]),),
        )


def _raise(index: int, rate: float, held: Sequence[str]) -> Remedy:
    return Remedy(
        f"Give param group {index} the rate of the others, {rate:.3g}, until its weights are trained",
        f'optimizer.param_groups[{index}]["lr"] = {rate:.6g}',
        "Howard & Ruder 2018, section 3.2: small rates are for weights that are good already",
        "these layers learn too",
        treatment=remedies.set_rate_of(held, rate),
    )


def _random(history: History, parameters: Sequence[Parameter]) -> bool:
    """Whether there are weights among them and all were found as torch initialises them."""
    weights = [parameter for parameter in parameters if parameter.role == "weight"]
    return bool(weights) and all(untrained(history, weight) for weight in weights)


def _count(parameters: Sequence[Parameter]) -> str:
    return f"{len(parameters)} trainable parameter{'s' * (len(parameters) > 1)}"


def _layers(names: Sequence[str]) -> str:
    if len(names) <= 2:
        return " and ".join(map(spoken, names))
    return f"{spoken(names[0])} … {spoken(names[-1])} ({len(names)} layers)"
