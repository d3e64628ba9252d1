"""What the softmaxes inside a model do: attention, and gates over experts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netdoctor import remedies
from netdoctor.facts import Facts
from netdoctor.findings import Remedy
from netdoctor.history import History

Array = NDArray[np.float64]
USUAL = 0.3  # largest logit to begin with; torch's weights make 0.9 to 2 with a divisor, without one logits grow faster


@dataclass(frozen=True)
class Softmax:
    """One softmax inside the model.

    Attributes:
        name: The attention layer that it is part of, else the layer before it: the queries', a gate.
        attention: Whether its logits are products of queries and keys.
        steps: Steps of the readings.
        entropy: Mean entropy of its rows over that of equal shares, in each of the thorough samples.
        balance: The same of the mean row.
        logits: Largest logit of attention, NaN for gates.
    """

    name: str
    attention: bool
    steps: NDArray[np.int64]
    entropy: Array
    balance: Array
    logits: Array


def softmaxes(history: History) -> list[Softmax]:
    """Of the layers that are known, in the order of the graph."""
    table, known = history.table("softmax_entropy"), {layer.name for layer in history.facts.layers}
    others = [history.table(name) for name in ("softmax_balance", "attention_logit")]
    found = []
    for place, name in enumerate(table.columns):
        seen = np.isfinite(table.values[:, place])
        if name in known and seen.any() and all(len(other) == len(table) for other in others):
            balance, logits = (other.values[seen, other.place[name]].astype(float) for other in others)
            entropy = table.values[seen, place].astype(float)
            found.append(Softmax(name, bool(np.isfinite(logits[0])), table.steps[seen], entropy, balance, logits))
    return found


def quieter(facts: Facts, sharp: list[Softmax]) -> Remedy:
    """Scale queries and keys so that their products are what fresh weights would make."""
    factors: dict[str, float] = {}
    own = Counter(parameter.layer for parameter in facts.parameters)
    for each in sharp:
        factor = USUAL / max(float(each.logits[-1]), USUAL)
        keys, layer = _keys(facts, each.name), facts.layer(each.name)
        shared = keys or layer.kind == "attention" or layer.units == 3 * layer.fan_in
        alone = own[each.name] == 1  # else a query stands among others of the module's own
        if alone or (own[each.name] and layer.kind != "other"):
            factors.update(dict.fromkeys((each.name, *keys), factor**0.5 if shared else factor))
    if not factors:
        return Remedy(
            "Divide the scores by the root of the width of keys, or by more",
            "weights = torch.softmax(scores / math.sqrt(width), dim=-1)",
            "Vaswani et al. 2017, Attention is all you need, section 3.2.1",
            "each query attends to all keys until it has learned which count",
        )
    return remedies.scale_weights(
        factors,
        f"Scale queries and keys down: logits of {max(float(each.logits[-1]) for each in sharp):.3g} become {USUAL:g}",
        "Vaswani et al. 2017, Attention is all you need, section 3.2.1",
        "each query attends to all keys until it has learned which count",
    )


def divided(history: History, sharp: list[Softmax]) -> tuple[Remedy, ...]:
    """Divide the scores, as large as they began, by what makes them usual.

    Empty where no module has them alone, and where it is the weights that are too large.
    """
    divisors = {each.name: max(float(each.logits[0]) / USUAL, 1.0) for each in sharp if _divisible(history, each)}
    if len(divisors) < len(sharp) or max(divisors.values()) == 1:
        return ()
    return (remedies.divide_scores(divisors, max(float(each.logits[0]) for each in sharp), USUAL),)


def _divisible(history: History, each: Softmax, small: float = 0.2) -> bool:
    """A softmax module; or queries whose weights, scaled to usual logits, would be ``small`` of a fresh layer's.

    Steps of a usual size would be large against such weights.
    """
    layer, weight = history.facts.layer(each.name), history.facts.weight(each.name)
    if layer.function == "softmax":
        return True
    if layer.kind != "linear" or weight is None or not _keys(history.facts, each.name):
        return False
    scaled = history.first("weight_std").get(weight.name, np.inf) * (USUAL / max(float(each.logits[0]), USUAL)) ** 0.5
    return bool(scaled < small * remedies.ideal_std(layer))


def _keys(facts: Facts, queries: str) -> tuple[str, ...]:
    """The layer that makes the keys, by its name: "k_proj" beside "q_proj"; empty where there is none."""
    path, dot, leaf = queries.rpartition(".")
    names = {f"{path}{dot}{leaf.replace(*pair)}" for pair in (("query", "key"), ("q", "k"), ("Q", "K"))} - {queries}
    fan_in = facts.layer(queries).fan_in
    return tuple(layer.name for layer in facts.layers if layer.name in names and layer.fan_in == fan_in)


def normed() -> Remedy:
    """Normalise queries and keys."""
    return Remedy(
        action="Normalise queries and keys, each over the width of its head, before their product",
        code="query, key = nn.RMSNorm(width)(query), nn.RMSNorm(width)(key)  # modules of their own, made in __init__\n"
        "scores = query @ key.transpose(-2, -1) / math.sqrt(width)",
        source="Henry et al. 2020, Query-key normalization; Dehghani et al. 2023, ViT-22B, section 2",
        effect="no logit exceeds the root of the width, whatever the weights do",
    )
