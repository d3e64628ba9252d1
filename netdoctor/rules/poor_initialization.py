"""Weights too small or too large for the depth that the signal has to pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

from netdoctor import factors, remedies
from netdoctor.derived import derived
from netdoctor.facts import Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule
from netdoctor.stacks import Stack, completed, mean, stacked, stacks, stream

CAUSED = (
    "attention-collapse",
    "logit-growth",
    "unexpected-initial-loss",
    "learning-rate-too-large",
    "learning-rate-too-small",
    "exploding-gradient",
    "vanishing-gradient",
    "saturated-units",
    "dead-units",
    "representation-collapse",
    "covariate-shift",
    "underfitting",
    "loss-plateau",
    "not-learning",
)


@rule(Severity.WARNING, explains=CAUSED)
def poor_initialization(
    history: History,
    *,
    depth: int = 5,  # weight layers to pass; torch's default trains 2 to 4 layers of ReLU or tanh (12 of 12 runs)
    shrink: float = 0.17,  # of the signal over these; after 6, Kaiming and tanh's Xavier keep 0.24, ReLU with 1/D 0.09
    growth: float = 3.0,  # of the signal over these; the lecture's 1.28x a layer make 3.4, Kaiming after 20 at most 1.8
    lost: float = 1e-2,  # of the signal after 3 layers: torch's default keeps 0.03 or more, 0.003 with sigmoids
    tiny: float = 1e-4,  # of the signal after 2 layers, 1 % each: torch's default keeps 0.1, with sigmoids 0.02
    invisible: float = 1e-6,  # of the signal: beside a bias it drowns in float32's rounding (1e-7)
    agreement: float = 0.9,  # weight std over the ideal, or its inverse: else it is not the weights
    oversized: float = 3.0,  # weight std over the ideal: N(0, 1) at a fan-in of 18 and more; two such layers make 9x
    stream_growth: float = 30.0,  # of a residual stream: branches that are normalised make the root of their number
    time_growth: float = 100.0,  # of a gradient over a sequence; the largest of orthogonal or default weights: 1
    sharp: float = 0.1,  # entropy of attention over that of equal shares: 0.8 where logits have variance 1
    uncertain: float = 3.0,  # first loss over ln 2, of products of embeddings: logits of std 5 cost this much
    patience: int = 300,  # steps without progress that put the blame on torch's default, which trains many deep nets
) -> Iterator[Evidence | Skipped]:
    """The signal shrinks or grows from layer to layer at the start, because the weights are too small or too large.

    ## What it looks at
    Each stack of linear and convolutional layers, the author's own among them, with no normalisation, residual path or
    branch in between, at its first sampled step: how much of the signal (std of a unit over the batch) at the first
    layer's input reaches the last layer, and each layer's weight std against the one that keeps the variance. Both must
    agree. Two layers with weights several times too large count in any stack. Likewise the growth of a residual stream
    over its branches, the recurrent weights and the growth of a gradient through time, the weights of attention whose
    queries each pick one key, and the products of embeddings in a model of nothing else, against the targets' spread.

    ## Why it matters
    A factor other than 1 multiplies from layer to layer, forward and backward: early layers get no gradient or far too
    much, the output does not depend on the input, bounded units saturate.

    ## When it is wrong
    Adam trains through much of it; the finding ends once the model has learned. Torch's default shrinks the signal too
    (0.41x a ReLU layer) and yet trains nets of moderate depth: there it is a note until training stalls, but an error
    where nothing of the signal is left. The last layer's own weights do not count for shrinking, since small ones are
    good style.

    ## References
    Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks. He et al. 2015,
    Delving deep into rectifiers, section 2.2. Zhang et al. 2019, Fixup initialization. Saxe et al. 2014, Exact
    solutions to the nonlinear dynamics of learning. SageMaker Debugger, PoorWeightInitialization.
    """
    if not history.first("weight_std") or not (history.first("input_rms") or history.first("activation_rms")):
        yield Skipped("no activations or weights measured yet")
        return
    course = progress(history)
    if course is not None and course.learned:
        return
    found = _ill(history, depth, shrink, growth, lost, tiny, agreement, oversized)
    others = list(_elsewhere(history, stream_growth, oversized, time_growth, sharp, uncertain))
    if not found and not others:
        return
    if found:
        stalled = course is not None and course.stalled and course.steps >= patience
        others.append(_stacked(history, found, stalled, (shrink, growth, lost, invisible)))
    yield max(others, key=lambda each: (each.severity or Severity.WARNING, each.confidence))


@derived
def _elsewhere(
    history: History, stream_growth: float, oversized: float, time_growth: float, sharp: float, uncertain: float
) -> tuple[Evidence, ...]:
    """What is wrong with weights that are in no plain stack."""
    return (
        *_residual(history, stream_growth),
        *_recurrent(history, oversized, time_growth),
        *_attending(history, oversized, sharp),
        *factors.too_large(history, oversized, uncertain),
    )


@derived
def _ill(
    history: History,
    depth: int,
    shrink: float,
    growth: float,
    lost: float,
    tiny: float,
    agreement: float,
    oversized: float,
) -> list[tuple[Stack, list[str], bool]]:
    """Stacks with too small or too large weights, their layers that are ill, and whether two are far too large."""
    found: list[tuple[Stack, list[str], bool]] = []
    for stack in stacks(history):
        passed, total = len(stack.layers) - 1, stack.total
        large = [ratio >= oversized for ratio in stack.ideal].count(True) >= 2
        growing = passed >= depth and total >= growth and mean(stack.ideal[:-1]) >= 1 / agreement
        weak = all(ratio > 0 for ratio in stack.least[:-1]) and mean(stack.least[:-1]) <= agreement
        bound = shrink if passed >= depth else lost if passed >= 3 else tiny if passed == 2 else 0.0
        shrinking = weak and total <= bound
        ill = [
            layer.name
            for layer, low, high in zip(stack.layers, stack.least, stack.ideal, strict=True)
            if (0 < low <= agreement if shrinking else high >= 1 / agreement)
        ]
        if shrinking and passed < 3:  # weights so small are seldom those of one stack alone
            ill += [name for name in _as_small(history) if name not in ill]
        if large or growing or shrinking:
            found.append((stack, ill, large and not growing))
    return found


def _stacked(
    history: History,
    found: list[tuple[Stack, list[str], bool]],
    stalled: bool,
    bounds: tuple[float, float, float, float],
) -> Evidence:
    """Stacks that let too little or too much of the signal through, with the layers to blame in each."""
    shrink, growth, lost, invisible = bounds
    worst, ill, large = max(found, key=lambda each: (not each[0].default, abs(math.log(max(each[0].total, 1e-30)))))
    layers = tuple(dict.fromkeys((*ill, *(name for _, names, _ in found for name in names))))
    outputs = {stack.layers[-1].name for stack, _, _ in found}
    facts, inside = completed(history), {layer.name for layer in worst.layers}
    gone, sure = worst.total <= invisible, large or (worst.total <= lost and not worst.default)
    return Evidence(
        message=worst.describe(history, [name for name in ill if name in inside], scale=not large),
        layers=layers,
        readings=(
            Reading(
                "signal at the last layer over that at the first", worst.total, shrink if worst.total < 1 else growth
            ),
            *(
                Reading(f"weight std of {layer.name}", std, remedies.ideal_std(layer), "w")
                for layer, std in zip(worst.layers, worst.stds, strict=True)
            ),
        ),
        confidence=0.95 if gone or sure else 0.6 if worst.default else 0.85,
        remedies=(
            remedies.initialise(facts, layers),
            remedies.normalise(facts, [name for name in layers if name not in outputs]),
        ),
        severity=Severity.ERROR if gone else Severity.WARNING if stalled or not worst.default else Severity.NOTE,
    )


def _as_small(history: History, small: float = 0.1) -> Iterator[str]:
    """Layers but the last one whose weights, of stacks or not, are far below those that keep the variance."""
    facts, stds = completed(history), history.first("weight_std")
    for layer in stacked(facts):
        weight = facts.weight(layer.name)
        std = stds.get(weight.name, 0.0) if weight is not None else 0.0
        if 0 < std <= small * remedies.ideal_std(layer) and layer.name != facts.loss.layer:
            yield layer.name


def _residual(history: History, growth: float) -> Iterator[Evidence]:
    """A residual stream that each branch multiplies."""
    path = stream(history)
    if path is None or path.total < growth:
        return
    names, count = tuple(layer.name for layer in path.layers), len(path.ends)
    fresh = [layer.name for layer in stacked(history.facts)]  # one step was enough to spoil them all
    scaled = remedies.scale_weights(
        dict.fromkeys((layer.name for layer in path.ends), count**-0.5),
        f"Scale the last layer of each of the {count} branches by 1/√{count}",
        "Zhang et al. 2019, Fixup initialization; De & Smith 2020, SkipInit",
        "the variance of the stream grows e times at most, however deep it is",
    )
    yield Evidence(
        message=f"The residual stream grows to {path.total:.2g} times its signal over {count} branches, "
        f"{path.total ** (1 / count):.2g}× each: without normalisation every sum adds as much as is there.",
        layers=names,
        readings=(Reading("signal at the end of the residual stream over its start", path.total, growth),),
        confidence=0.9,
        remedies=(
            remedies.both(remedies.initialise(history.facts, fresh), scaled),
            remedies.normalise(history.facts, names),
        ),
    )


def _recurrent(history: History, oversized: float, growth: float) -> Iterator[Evidence]:
    """Recurrent weights that make states or gradients grow from step to step."""
    facts, stds, through = history.facts, history.first("weight_std"), history.first("time_gradient")
    for layer in facts.layers:
        if layer.kind != "recurrent":
            continue
        held = [p for p in facts.parameters if p.layer == layer.name and p.trainable and ".weight_hh" in f".{p.name}"]
        if not held:
            continue
        worst = max(held, key=lambda p: stds.get(p.name, 0.0) * p.shape[-1] ** 0.5)
        std, ideal, grown = stds.get(worst.name, 0.0), worst.shape[-1] ** -0.5, through.get(layer.name, 0.0)
        if std / ideal < oversized and grown < growth:
            continue
        text = f"Recurrent weights of {spoken(layer.name)} have std {std:.3g}; {ideal:.3g} keeps the state's variance "
        text += f"({worst.shape[-1]} units)"
        if grown >= growth:
            text += f", and the gradient at the first inputs is {grown:.2g} times that at the last ones"
        yield Evidence(
            message=text + ".",
            layers=(layer.name,),
            readings=(
                Reading(f"std of {worst.name}", std, oversized * ideal, "w"),
                Reading("gradient at the first inputs over that at the last", grown, growth),
            ),
            confidence=0.9,
            remedies=(remedies.orthogonal_recurrence(layer), remedies.clip_gradients(1.0)),
        )


def _attending(history: History, oversized: float, sharp: float) -> Iterator[Evidence]:
    """Weights of attention layers that make each query pick one key at random."""
    facts, stds, entropy = history.facts, history.first("weight_std"), history.first("softmax_entropy")
    found = {}
    for layer in facts.layers:
        weight = facts.weight(layer.name) if layer.kind == "attention" else None
        if weight is not None and weight.trainable and entropy.get(layer.name, 1.0) <= sharp:
            ratio = stds.get(weight.name, 0.0) * layer.fan_in**0.5
            found.update({layer.name: ratio} if ratio >= oversized else {})
    if found:
        first = next(iter(found))
        yield Evidence(
            message=f"Query, key and value weights of {spoken(first)} are {found[first]:.1f}× too large: each query "
            f"picks one key, the entropy of its shares is {entropy[first]:.0%} of that of equal ones.",
            layers=tuple(found),
            readings=(
                *(
                    Reading(f"weight std of {name} over the one that keeps the variance", ratio, oversized)
                    for name, ratio in found.items()
                ),
                Reading(f"entropy of {first} over the largest possible", entropy[first], sharp),
            ),
            confidence=0.9,
            remedies=(remedies.xavier_attention(tuple(found)),),
        )


def _history(std: float, signals: list[float], loss: list[float] | None = None) -> History:
    """Of a stack of linear layers of width 100, with ``signals`` at their inputs."""
    names = [f"layers.{i}" for i in range(len(signals))]
    layers = tuple(
        Layer(name, "linear", "Linear", "", 100, 100, 100, "identity", (before,) if before else (), called=True)
        for name, before in zip(names, ["", *names], strict=False)
    )
    weights = tuple(Parameter(f"{name}.weight", name, (100, 100), "weight") for name in names)
    inputs = {name: [signal] for name, signal in zip(names, signals, strict=True)}
    history = History.of(
        Facts(layers=layers, parameters=weights),
        input_signal=inputs,
        input_rms=inputs,
        weight_std={weight.name: [std] for weight in weights},
    )
    for step, value in enumerate(loss or (), 1):
        history.record(step, "loss", [value])
    return history


HALVING = [0.5**i for i in range(7)]
DEFAULT = [0.577**i for i in range(7)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(0.05, HALVING),
        _history(0.001, [1.0, 1e-2, 1e-4]),
        _history(0.2, [2.0**i for i in range(7)]),
        _history(1.0, [1.0, 10.0, 100.0]),  # N(0, 1)
        _history(0.0577, DEFAULT),  # a note
        _history(0.0577, DEFAULT, [2.3] * 400),  # the default, stalled
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(0.1, [1.0] * 7),  # healthy
        _history(0.1, HALVING),  # a shrinking signal, but not for the weights
        _history(0.0577, DEFAULT[:4]),  # torch's default, not deep
        _history(0.0577, [1.0, 0.15, 0.02]),  # with sigmoids
        _history(0.05, HALVING, [2.3 * 0.9**i for i in range(40)]),  # it learned
        History.of(_history(0.1, [1.0] * 7).facts),  # nothing measured yet
    )
