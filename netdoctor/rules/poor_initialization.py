"""Weights too small or too large for the depth that the signal has to pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from netdoctor import remedies
from netdoctor.facts import Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule

SLOPE_ONE = ("tanh", "elu", "selu", "hardtanh", "softsign")  # a gain of 1 keeps small signals: Xavier is sound here
CAUSED = (
    "unexpected-initial-loss",
    "learning-rate-too-large",
    "exploding-gradient",
    "vanishing-gradient",
    "saturated-units",
    "dead-units",
    "covariate-shift",
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
    invisible: float = 1e-6,  # of the signal: beside a bias it drowns in float32's rounding (1e-7)
    agreement: float = 0.9,  # weight std over the ideal, or its inverse: else it is not the weights
    oversized: float = 3.0,  # weight std over the ideal: N(0, 1) at a fan-in of 18 and more; two such layers make 9x
    patience: int = 300,  # steps without progress that put the blame on torch's default, which trains many deep nets
) -> Iterator[Evidence | Skipped]:
    """The signal shrinks or grows from layer to layer at the start, because the weights are too small or too large.

    ## What it looks at
    Each stack of linear and convolutional layers with no normalisation, residual path or branch in between, at its
    first sampled step: how much of the signal (std of a unit over the batch) at the first layer's input reaches the
    last layer, and each layer's weight std against the one that keeps the variance. Both must agree. Two layers with
    weights several times too large count in any stack.

    ## Why it matters
    A factor other than 1 multiplies from layer to layer, forward and backward: early layers get no gradient or far too
    much, the output does not depend on the input, bounded units saturate.

    ## When it is wrong
    Adam trains through much of it; the finding ends once the model has learned. Torch's default shrinks the signal too
    (0.41x a ReLU layer) and yet trains nets of moderate depth: there it is a note until training stalls. The last
    layer's own weights do not count for shrinking, since small ones are good style.

    ## References
    Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks. He et al. 2015,
    Delving deep into rectifiers, section 2.2. SageMaker Debugger, PoorWeightInitialization.
    """
    if not history.first("weight_std") or not history.first("input_rms"):
        yield Skipped("no activations or weights measured yet")
        return
    found: list[tuple[_Stack, list[str], bool]] = []
    for stack in _stacks(history):
        passed, total = len(stack.layers) - 1, stack.total
        large = [ratio >= oversized for ratio in stack.ideal].count(True) >= 2
        growing = passed >= depth and total >= growth and _mean(stack.ideal[:-1]) >= 1 / agreement
        weak = all(ratio > 0 for ratio in stack.least[:-1]) and _mean(stack.least[:-1]) <= agreement
        shrinking = weak and (total <= shrink if passed >= depth else passed >= 3 and total <= lost)
        ill = [
            layer.name
            for layer, low, high in zip(stack.layers, stack.least, stack.ideal, strict=True)
            if (0 < low <= agreement if shrinking else high >= 1 / agreement)
        ]
        if large or growing or shrinking:
            found.append((stack, ill, large and not growing))
    if not found:
        return
    course = progress(history)
    if course is not None and course.learned:
        return
    stalled = course is not None and course.stalled and course.steps >= patience
    worst, ill, large = max(found, key=lambda each: (not each[0].default, abs(math.log(max(each[0].total, 1e-30)))))
    layers = tuple(dict.fromkeys((*ill, *(name for _, names, _ in found for name in names))))
    outputs = {stack.layers[-1].name for stack, _, _ in found}
    bound = shrink if worst.total < 1 else growth
    yield Evidence(
        message=worst.describe(history, ill, scale=not large),
        layers=layers,
        readings=(
            Reading("signal at the last layer over signal at the first", worst.total, bound),
            *(
                Reading(f"weight std of {layer.name}", std, remedies.ideal_std(layer), "w")
                for layer, std in zip(worst.layers, worst.stds, strict=True)
            ),
        ),
        confidence=0.6 if worst.default else 0.95 if large or worst.total <= lost else 0.85,
        remedies=(
            remedies.initialise(history.facts, layers),
            remedies.normalise(history.facts, [name for name in layers if name not in outputs]),
        ),
        severity=Severity.NOTE if worst.default and worst.total > invisible and not stalled else Severity.WARNING,
    )


@dataclass(frozen=True)
class _Stack:
    """Weight layers in a row, with the signal at the last one's input over that at the first one's."""

    layers: tuple[Layer, ...]
    weights: tuple[Parameter, ...]
    stds: tuple[float, ...]
    total: float

    @property
    def ideal(self) -> list[float]:
        """Weight std of each layer over the one that keeps the variance."""
        return [std / remedies.ideal_std(layer) for layer, std in zip(self.layers, self.stds, strict=True)]

    @property
    def least(self) -> list[float]:
        """Weight std of each layer over the smallest that keeps a small signal."""
        gains = [remedies.gain(layer.nonlinearity) if layer.nonlinearity in SLOPE_ONE else 1.0 for layer in self.layers]
        return [ratio * gain for ratio, gain in zip(self.ideal, gains, strict=True)]

    @property
    def default(self) -> bool:
        """Whether all weights but the last layer's have torch's default std, within 5 standard errors of the sample."""
        return all(
            any(abs(std * math.sqrt(3 * fan) - 1) <= 2.5 / math.sqrt(min(weight.size, 4096)) for fan in _fans(layer))
            for layer, weight, std in zip(self.layers[:-1], self.weights, self.stds, strict=False)
        )

    def describe(self, history: History, ill: list[str], scale: bool) -> str:
        names = [layer.name for layer in self.layers]
        worst = max((names.index(name) for name in ill), key=lambda place: round(abs(math.log(self.ideal[place])), 1))
        layer, std = self.layers[worst], self.stds[worst]
        ideal = remedies.ideal_std(layer)
        if scale:
            signal = history.first("activation_signal") or history.first("activation_rms")
            traced = self.total > 1e-12  # else it fell below float32, and the weights tell
            factor = self.total ** (1 / (len(names) - 1)) if traced else _mean(self.ideal[:-1])
            first, last = (signal.get(name, 0.0) for name in (names[0], names[-1]))
            verb = "shrink" if factor < 1 else "grow"
            text = f"Activations {verb} to {factor:.2g}× per layer: "
            text += f"std {first:.2g} → {last:.2g} over {len(names)} layers. "
        else:
            text = f"Weights of {len(ill)} layers are up to {std / ideal:.1f}× too large. "
        function = layer.nonlinearity if layer.nonlinearity in remedies.GAINS else "linear"
        text += f"Weight std of {spoken(layer.name)} is {std:.3g}; {ideal:.3g} keeps the variance "
        text += f"({function}, fan-in {layer.fan_in})."
        gradient = history.first("activation_gradient_rms")
        first_rms, last_rms = gradient.get(names[0], 0.0), gradient.get(names[-1], 0.0)
        if first_rms > 0 and last_rms > 0 and not 0.5 < first_rms / last_rms < 2:
            where = "above" if first_rms > last_rms else "below"
            times = max(first_rms / last_rms, last_rms / first_rms)
            text += f" Gradients of {spoken(names[0])} are {times:.2g}× {where} those of {spoken(names[-1])}."
        return text


def _stacks(history: History) -> Iterator[_Stack]:
    """The longest stacks of trainable weight layers in which each takes only what the one before gives."""
    facts = history.facts
    weights = {p.layer: p for p in facts.parameters if p.role == "weight" and p.trainable and p.name.endswith("weight")}
    layers = {layer.name: layer for layer in facts.layers}
    stacks: dict[str, tuple[Layer, ...]] = {}
    inner: set[str] = set()
    for layer in facts.layers:  # in order of execution
        if layer.kind not in ("linear", "conv") or layer.name not in weights:
            continue
        before = _weight_layer_before(layers, layer)
        stacks[layer.name] = (*stacks.get(before, ()), layer)
        inner.add(before)
    stds, rms, signals = (history.first(name) for name in ("weight_std", "input_rms", "input_signal"))
    signals = signals or rms  # a batch of one sample has no spread
    for last, stack in stacks.items():
        start, end = signals.get(stack[0].name, 0.0), signals.get(last, math.nan)
        if last not in inner and len(stack) > 1 and start > 0 and end >= 0:
            held = tuple(weights[layer.name] for layer in stack)
            yield _Stack(stack, held, tuple(stds.get(weight.name, 0.0) for weight in held), end / start)


def _weight_layer_before(layers: dict[str, Layer], layer: Layer) -> str:
    """Name of the layer that alone feeds ``layer``, through nonlinearities at most; "" where there is none."""
    while len(layer.inputs) == 1 and layer.inputs[0] in layers:
        layer = layers[layer.inputs[0]]
        if layer.residual or layer.function in ("softmax", "log_softmax"):
            return ""
        if layer.kind != "activation":
            return layer.name
    return ""


def _fans(layer: Layer) -> tuple[int, ...]:
    """Fan-ins that torch's default may have used: for transposed convolutions it takes the fan-out."""
    return (layer.fan_in, layer.fan_out) if "Transpose" in layer.type else (layer.fan_in,)


def _mean(ratios: list[float]) -> float:
    """The geometric mean, 0 where a ratio is 0."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if min(ratios, default=0.0) > 0 else 0.0


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
FIRES: tuple[History, ...] = (
    _history(0.05, HALVING),
    _history(0.2, [2.0**i for i in range(7)]),
    _history(1.0, [1.0, 10.0, 100.0]),  # N(0, 1)
    _history(0.0577, DEFAULT),  # a note
    _history(0.0577, DEFAULT, [2.3] * 400),  # the default, stalled
)
QUIET: tuple[History, ...] = (
    _history(0.1, [1.0] * 7),  # healthy
    _history(0.1, HALVING),  # a shrinking signal, but not for the weights
    _history(0.0577, DEFAULT[:4]),  # torch's default, not deep
    _history(0.05, HALVING, [2.3 * 0.9**i for i in range(40)]),  # it learned
    History.of(_history(0.1, [1.0] * 7).facts),  # nothing measured yet
)
