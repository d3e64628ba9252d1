"""A mixture of experts that uses few of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from netdoctor import remedies
from netdoctor.attention import softmaxes
from netdoctor.derived import of_facts
from netdoctor.facts import Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("no-gradient",))
def expert_imbalance(
    history: History,
    *,
    used: float = 0.15,  # of the experts beside the first: of 4 experts 1.45, of 64 ten; balanced gates have 0.9
    idle: float = 0.5,  # of the experts, never called in the latest samples
    readings: int = 3,  # latest thorough samples of the gate that must agree
    samples: int = 10,  # latest samples without a call
    rows: int = 20,  # rows an expert would get in these, were they spread evenly: fewer miss one by chance
) -> Iterator[Evidence | Skipped]:
    """The gate of a mixture sends nearly everything to a few experts; the others learn nothing.

    ## What it looks at
    Gates: a layer with one unit an expert, where the experts are modules of the same build in a list beside it, or one
    parameter of that many matrices. Of a softmax over all of them the entropy of its mean over the batch, as a number
    of experts used alike; and which expert modules were called at all in the latest samples.

    ## Why it matters
    What is chosen gets the gradient, grows better and is chosen more: the rich get richer. The model has the cost and
    the memory of all experts and the capacity of one.

    ## When it is wrong
    Experts for rare inputs may rest for long. Modules that take turns without a gate (heads of several tasks) are no
    experts; gates whose experts cannot be told by their build are not judged.

    ## References
    Shazeer et al. 2017, Outrageously large neural networks, section 4. Fedus et al. 2022, Switch Transformers, section
    2.2. Wang et al. 2024, Auxiliary-loss-free load balancing strategy for mixture-of-experts.
    """
    mixtures = _mixtures(history.facts)
    if not mixtures:
        return
    shares = {each.name: each.balance for each in softmaxes(history) if not each.attention}
    if not len(history.table("activation_rms")):
        yield Skipped("no activations measured yet")
        return
    for mixture in mixtures:
        count, name = mixture.count, mixture.gate.name
        balance = shares.get(name, np.zeros(0))
        balance = balance[-readings:] if np.isfinite(balance).all() else np.zeros(0)
        effective = float(count ** balance.max()) if len(balance) == readings else float(count)
        resting = _resting(history, mixture, samples) if mixture.gate.samples * samples >= rows * count else ()
        few = effective <= 1 + used * (count - 1)
        if not few and not len(resting) >= idle * count:
            continue
        said = (
            f"uses {effective:.1f} of its {count} experts"
            if few
            else f"never calls {len(resting)} of its {count} experts"
        )
        yield Evidence(
            message=f"The gate {spoken(name)} {said}: the others get no gradient and learn nothing.",
            layers=(name, *resting),
            readings=(
                Reading("experts used alike", effective, 1 + used * (count - 1)),
                Reading(f"experts not called in {samples} samples", float(len(resting)), idle * count),
            ),
            confidence=0.9 if few else 0.8,
            remedies=(remedies.balance_experts(mixture.gate, count), _balance_loss(name, count)),
        )
        return


@dataclass(frozen=True)
class _Mixture:
    """A gate and the layers of each of its experts, none where they are one parameter."""

    gate: Layer
    count: int
    experts: tuple[tuple[str, ...], ...] = ()


@of_facts
def _mixtures(facts: Facts) -> list[_Mixture]:
    """Gates beside as many modules of one build, or beside a parameter of as many matrices."""
    lists: dict[str, dict[int, list[Layer]]] = {}  # path of a list -> index -> layers
    for layer in facts.layers:
        parts = layer.name.split(".")
        for place, part in enumerate(parts):
            if part.isdigit():
                lists.setdefault(".".join(parts[:place]), {}).setdefault(int(part), []).append(layer)
    alike = {
        path: members
        for path, members in lists.items()
        if len({tuple((e.type, e.fan_in, e.units) for e in several) for several in members.values()}) == 1
        and any(e.fan_in for e in members[min(members)])
    }
    stacked = [p for p in facts.parameters if len(p.shape) == 3]
    found = []
    for gate in facts.layers:
        if gate.kind != "linear" or not gate.called or gate.units < 2:
            continue
        beside = gate.name.rpartition(".")[0]
        for path, members in alike.items():
            if len(members) == gate.units and _inside(path, beside) and not gate.name.startswith(f"{path}."):
                experts = tuple(tuple(e.name for e in members[index]) for index in sorted(members))
                found.append(_Mixture(gate, gate.units, experts))
                break
        else:
            if any(p.shape[0] == gate.units and _inside(p.layer, beside) for p in stacked):
                found.append(_Mixture(gate, gate.units))
    return found


def _inside(path: str, beside: str) -> bool:
    return not beside or path == beside or path.startswith(f"{beside}.")


def _resting(history: History, mixture: _Mixture, samples: int) -> tuple[str, ...]:
    """First layers of the experts that none of the latest samples called, while some expert was."""
    table = history.table("activation_rms")
    rows = np.isfinite(table.values[-samples:])
    if len(rows) < samples:
        return ()
    called = {name for place, name in enumerate(table.columns) if rows[:, place].any()}
    resting = tuple(names[0] for names in mixture.experts if not called.intersection(names))
    return resting if len(resting) < len(mixture.experts) else ()


def _balance_loss(gate: str, count: int) -> Remedy:
    return Remedy(
        action="Add a loss that is lowest where all experts get the same",
        code=f"chances = logits.softmax(-1).flatten(0, -2)  # logits: the output of {gate}\n"
        f"chosen = F.one_hot(chances.argmax(-1), {count}).float().mean(0)\n"
        f"loss = loss + 0.01 * {count} * (chosen * chances.mean(0)).sum()",
        source="Fedus et al. 2022, Switch Transformers, equation 4",
        effect=f"1 where all experts get the same, {count} where one gets everything",
    )


def _facts(units: int, experts: int, samples: int = 64) -> Facts:
    gate = Layer(
        "moe.gate", "linear", "Linear", "", 32, units, units, "softmax", ("stem",), called=True, samples=samples
    )
    layers = [
        Layer(f"moe.experts.{index}.{part}", "linear", "Linear", "", 32, 32, 32, "relu", ("stem",), called=True)
        for index in range(experts)
        for part in (0, 2)
    ]
    return Facts(layers=(gate, *layers), batch=samples)


def _run(balance: list[float], idle: int = 0, facts: Facts | None = None) -> History:
    facts = facts or _facts(6, 6)
    count, gone = len(balance), float("nan")
    sizes = {
        layer.name: [gone if layer.name.split(".")[-2] in map(str, range(1, 1 + idle)) else 1.0] * count
        for layer in facts.layers
    }
    return History.of(
        facts,
        softmax_entropy={"moe.gate": balance},
        softmax_balance={"moe.gate": balance},
        attention_logit={"moe.gate": [gone] * count},
        activation_rms=sizes,
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _run([0.95, 0.8, 0.3, 0.05, 0.02, 0.01]),
        _run([0.95] * 12, idle=5),  # each row goes to the first, by a small margin
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _run([0.99] * 12),  # healthy
        _run([0.95, 0.9, 0.7, 0.6, 0.7, 0.7], idle=1),  # they specialise
        _run([0.1, 0.01]),  # too early
        _run([0.01] * 12, facts=_facts(6, 3)),  # a softmax over something else
        _run([0.95] * 12, idle=5, facts=_facts(6, 6, samples=4)),  # batches of four call four
        History.of(Facts(layers=(Layer("gate", "linear", "Linear", "", 8, 4, 4, "softmax", called=True),))),
        History.of(
            Facts(parameters=(Parameter("conv.weight", "conv", (4, 3, 5), "weight"),)),
            softmax_balance={"gate": [0.0] * 5},
        ),
    )
