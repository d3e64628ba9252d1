"""Weight decay, or a penalty in the loss, that outweighs what the data ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from netdoctor import remedies
from netdoctor.facts import Facts, Group, Layer, Loss, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import reference
from netdoctor.history import History
from netdoctor.progress import progress, weight_growth
from netdoctor.rules.base import rule

CAUSED = (
    "learning-rate-too-large",
    "learning-rate-too-small",
    "exploding-gradient",
    "vanishing-gradient",
    "dead-units",
    "covariate-shift",
    "train-val-mismatch",
    "underfitting",
    "loss-plateau",
    "not-learning",
)


@rule(Severity.WARNING, explains=CAUSED)
def over_regularized(
    history: History,
    *,
    memory: float = 120.0,  # steps after which decay alone has taken 63 % of a weight; usual settings: 2,000 and more
    shrunk: float = 0.95,  # of the start, median over the weights: they did not grow though the model learns
    gain: float = 0.9,  # of the best constant prediction's loss: what gained more is not held back
    collapsed: float = 0.5,  # of the start, median; none above 0.8: weights that a penalty in the loss takes down
    silent: float = 0.3,  # spread of the outputs over that of the targets
    share: float = 0.25,  # of a penalty that is left, of one that began above all that the data could repay
    undecided: float = 0.005,  # below the largest possible entropy, and
    flattened: float = 0.25,  # of what it was below it at the start: a policy under a bonus that outweighs all else
    bonus: float = 1.0,  # loss per nat of entropy; A3C takes 0.01 where rewards are at most 1 (Mnih et al. 2016)
    patience: int = 40,  # steps
) -> Iterator[Evidence | Skipped]:
    """The weights are pulled to zero faster than the data can hold them, and the model stays below what it could do.

    ## What it looks at
    Learning rate times weight decay, the share of each weight that a step takes away (momentum multiplies it), where
    the weights shrink and the loss stays high; without weight decay, weights that all shrink by half and more while the
    outputs lose their spread: a penalty in the loss. Where it is made of the parameters alone it is read: one that
    began above the loss of the best constant, and of which the steps took most away, shows it too. And a policy whose
    entropy rises to the largest possible.

    ## Why it matters
    Decoupled decay of lr·λ a step makes the weights an average over the last 1/(lr·λ) steps and holds their rms at
    sqrt(lr/(2λ)); what was learned before is forgotten. Penalties that outweigh the gradient leave nothing but zeros.

    ## When it is wrong
    Convex problems trained with large steps bear much decay. A model that does well is not judged. Pruning by a penalty
    is meant to take most weights to zero, but not all alike. A policy without any reward yet is not judged: where the
    bonus is usual, the loss is near zero then.

    ## References
    Loshchilov & Hutter 2019, Decoupled weight decay regularization. Kosson et al. 2024, Rotational equilibrium, section
    3.2. Hastie et al. 2009, The Elements of Statistical Learning, section 3.4.
    """
    steps = int(history.step)
    growth = weight_growth(history)
    if growth is None or steps < patience:
        yield Skipped(f"fewer than {patience} steps" if growth is not None else "no weights measured twice yet")
        return
    names, ratios = growth
    typical = float(np.median(ratios))
    run, rates = progress(history), _rates(history)
    strongest = max(rates, default=0.0)
    if strongest > 1 / memory:
        if run is None or run.falling or run.gain >= gain or typical > shrunk:
            return
        group = history.facts.groups[int(np.argmax(rates))]
        why = (
            f"Weight decay {group.weight_decay:g} takes {strongest:.2%} of every weight away in each step: they "
            f"remember {1 / strongest:.0f} steps"
        )
        reading = Reading("share of a weight that a step takes away", strongest, 1 / memory, "", (1, steps))
    elif typical < shrunk and _taken(history, share) and _says_nothing(history, silent):
        group = None
        why = f"The steps take a penalty down, and the outputs lose their spread: {_penalty(history)}"
        costs = history.series("penalty")[1]
        reading = Reading("penalty on the weights", float(costs[-1]), share * float(costs[0]), "loss", (1, steps))
    elif typical < collapsed and float(ratios.max()) < 0.8 and _says_nothing(history, silent):
        group = None
        why = f"The weights shrink without weight decay, and the outputs lose their spread: {_penalty(history)}"
        reading = Reading("largest rms of a weight over its first", float(ratios.max()), 0.8, "", (1, steps))
    elif strongest == 0 and float(ratios.max()) < shrunk:
        found = _even(history, undecided, flattened, bonus)
        if found is not None:
            yield found
        return
    else:
        return
    loss = f"; the loss is {run.recent:.3g}" if run is not None else ""
    yield Evidence(
        message=f"{why}. Their rms is {typical:.2g} of what it was at the start{loss}.",
        readings=(reading, Reading("median rms of the weights over their first", typical, shrunk, "", (1, steps))),
        confidence=0.85,
        remedies=(_lower(history.facts, group, [] if typical > collapsed else names),),
    )


def _taken(history: History, share: float) -> bool:
    """Whether the steps took down a penalty that cost more than any fit to the data could gain."""
    costs = history.series("penalty")[1]
    return len(costs) > 0 and costs[0] > reference(history) > 0 and costs[-1] < share * costs[0]


def _even(history: History, undecided: float, flattened: float, bonus: float) -> Evidence | None:
    """A policy that becomes as even as can be, at a loss that is nothing but its entropy."""
    table, losses = history.table("softmax_entropy"), history.series("loss")[1][-10:]
    units = {layer.name: layer.units for layer in history.facts.layers}
    if len(table) < 5 or not len(losses) or history.facts.several_losses:
        return None
    for place, name in enumerate(table.columns):
        entropy = table.values[:, place]
        entropy = entropy[np.isfinite(entropy)]
        nats = math.log(max(units.get(name, 0), 1))
        if len(entropy) < 5 or nats == 0 or name != history.facts.loss.layer:
            continue
        first, now, weight = 1 - float(entropy[0]), 1 - float(np.min(entropy[-3:])), -float(np.mean(losses)) / nats
        if now < undecided and now < flattened * first and weight > bonus:
            return Evidence(
                message=f"The choices of {spoken(name)} become equal: their entropy rose from {1 - first:.2%} to "
                f"{1 - now:.2%} of the possible while the weights shrink without weight decay. The loss is that of a "
                f"bonus of {weight:.2g} for each nat of entropy, which outweighs what the choices earn.",
                layers=(name,),
                readings=(
                    Reading("entropy of the choices over the possible", 1 - now, 1 - undecided),
                    Reading("loss per nat of entropy, negated", weight, bonus, "loss"),
                ),
                confidence=0.85,
                remedies=(
                    Remedy(
                        "Lower the factor of the entropy's bonus to 0.01",
                        "loss = policy_loss - 0.01 * entropy.mean()",
                        "Mnih et al. 2016, Asynchronous methods for deep reinforcement learning, section 5.1",
                        "the policy follows the reward",
                    ),
                ),
            )
    return None


def _rates(history: History) -> list[float]:
    """Share of a weight that a step of each param group takes away by weight decay; adaptive L2 is not one."""
    table, found = history.table("learning_rate"), []
    for index, group in enumerate(history.facts.groups):
        now = float(table.values[-1, index]) if len(table) and index < table.values.shape[1] else group.learning_rate
        coupled = group.optimizer.startswith(remedies.ADAPTIVE) and not group.optimizer.startswith(("AdamW", "Lion"))
        inertia = 1 - group.momentum if group.optimizer == "SGD" else 1.0
        decay = 0.0 if coupled or not np.isfinite(now * group.weight_decay) else now * group.weight_decay
        found.append(decay / max(inertia, 0.01))
    return found


def _penalty(history: History) -> str:
    """How large the penalty in the loss was at first, where it could be told."""
    penalty, loss = history.first("penalty").get(""), history.first("loss").get("")
    if penalty is None or loss is None or not loss > penalty > 0:
        return "a penalty in the loss"
    return f"the loss began with {penalty:.3g} of a penalty on the weights and {loss - penalty:.3g} of the data"


def _says_nothing(history: History, silent: float) -> bool:
    """Whether the outputs spread by less than the targets, or the answers are those of a constant."""
    latest = {name: history.latest(name).get("") for name in (*_RANGE, "accuracy", "largest_class_share")}
    low, high, least, most = (latest[name] for name in _RANGE)
    if low is not None and high is not None and least is not None and most is not None:
        return most - least < silent * (high - low)
    accuracy, share = latest["accuracy"], latest["largest_class_share"]
    return accuracy is not None and share is not None and accuracy < share + 0.1


_RANGE = ("target_low", "target_high", "output_low", "output_high")


def _lower(facts: Facts, group: Group | None, fresh: Sequence[str]) -> Remedy:
    layers = {parameter.layer for parameter in facts.parameters if parameter.name in fresh}
    plain = [layer.name for layer in facts.layers if layer.name in layers and layer.kind in ("linear", "conv")]
    again = remedies.initialise(facts, plain) if plain else None
    start = f"\n{again.code}  # what decay took does not come back by itself" if again is not None else ""
    if group is None:
        return Remedy(
            "Divide the factor of the penalty by 100, and start again",
            f"loss = task_loss + 0.01 * factor * penalty{start}",
            "Hastie et al. 2009, section 3.4",
            "the data decide again",
        )
    value = 0.01 if group.optimizer.startswith(("AdamW", "Lion")) else 5e-4

    lower = remedies.set_weight_decay(value, group.weight_decay)
    return Remedy(
        f"Lower the weight decay from {group.weight_decay:g} to {value:g}" + (" and start again" if again else ""),
        f'for group in optimizer.param_groups:\n    group["weight_decay"] = {value:g}{start}',
        "Loshchilov & Hutter 2019, section 4; He et al. 2016, section 3.4",
        "weights as large as the data ask for",
        treatment=remedies.in_turn(lower, *filter(None, (again,))),
    )


_FACTS = Facts(
    layers=(Layer("fc", "linear", "Linear", "", 8, 8, 8, called=True),),
    parameters=(Parameter("fc.weight", "fc", (8, 8), "weight", group=0),),
    loss=Loss("cross-entropy"),
)


def _history(
    decay: float,
    weights: NDArray[np.float64],
    loss: float,
    changes: dict[str, float] | None = None,
    penalty: float = 0.0,
) -> History:
    facts = _FACTS.with_changes(groups=(Group("AdamW", 0, 3e-3, decay, 0.9),))
    count = len(weights)
    history = History.of(
        facts,
        loss=[loss + 0.01 * (i % 3) for i in range(count)],
        constant_loss=[2.3] * count,
        learning_rate={"0": [3e-3] * count},
        weight_rms={"fc.weight": list(weights)},
    )
    if penalty:
        history.record(1, "penalty", [penalty])
    for name, value in (changes or {}).items():
        history.record(count, name, [value])
    return history


_FALLING = 0.1 * np.linspace(1.0, 0.6, 100)
_COLLAPSE = {"target_low": -2.0, "target_high": 2.0, "output_low": -0.1, "output_high": 0.1}


def _policy(entropy: list[float], loss: float, weights: float) -> History:
    layer = Layer("fc", "linear", "Linear", "", 8, 4, 4, called=True)
    history = _history(0.0, 0.1 * np.linspace(1.0, weights, 100), loss)
    history.facts = history.facts.with_changes(layers=(layer,), loss=Loss(layer="fc"))
    for step, value in enumerate(entropy, 1):
        history.record(step, "softmax_entropy", [value], ("fc",))
    return history


_RISING = [0.988, 0.99, 0.997, 0.9992, 0.9994, 0.9995, 0.9995]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(5.0, _FALLING, 0.6),
        _history(0.0, 0.1 * np.linspace(1.0, 0.05, 100), 2.2, _COLLAPSE),
        _policy(_RISING, -13.9, 0.8),
        _history(0.0, 0.1 * np.linspace(1.0, 0.9, 100), 2.2, {"penalty": 0.6} | _COLLAPSE, penalty=5.8),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(0.01, 0.1 * np.linspace(1.0, 1.5, 100), 0.1),  # healthy
        _history(5.0, _FALLING, 0.01),  # converged all the same
        _history(0.0, 0.1 * np.linspace(1.0, 0.4, 100), 0.1),  # began with weights that are too large
        _history(0.0, 0.1 * np.linspace(1.0, 0.9, 100), 2.2, {"penalty": 2.2} | _COLLAPSE, penalty=2.5),  # BatchNorm
        _policy(_RISING, -0.01, 0.8),  # no reward yet, and a bonus of 0.01
        _policy(_RISING[:1] * 7, -13.9, 0.8),
        _policy(_RISING, -13.9, 1.2),
        _history(5.0, _FALLING[:20], 2.0),  # too early
    )
