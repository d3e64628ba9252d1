"""Weight layers in a row and residual streams: how much of the signal passes them at the start."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from netdoctor import remedies
from netdoctor.derived import derived, of_facts
from netdoctor.facts import Facts, Layer, Parameter, spoken
from netdoctor.history import History

FITTING = 1.5  # times the size that random weights give, or its inverse: with 32 units that is 3 standard errors
SLOPE_ONE = ("tanh", "elu", "selu", "hardtanh", "softsign")  # a gain of 1 keeps small signals: Xavier is sound here


@dataclass(frozen=True)
class Stack:
    """Weight layers in a row, with the signal at the last one's input over that at the first one's."""

    layers: tuple[Layer, ...]
    weights: tuple[Parameter, ...]
    stds: tuple[float, ...]
    total: float

    @cached_property
    def ideal(self) -> list[float]:
        """Weight std of each layer over the one that keeps the variance."""
        return [std / remedies.ideal_std(layer) for layer, std in zip(self.layers, self.stds, strict=True)]

    @cached_property
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
        """What the signal does over the layers, or the weights where not ``scale``, and the worst of ``ill`` layers."""
        names = [layer.name for layer in self.layers]
        worst = max((names.index(name) for name in ill), key=lambda place: round(abs(math.log(self.ideal[place])), 1))
        layer, std = self.layers[worst], self.stds[worst]
        ideal = remedies.ideal_std(layer)
        if scale:
            signal = history.first("activation_signal") or history.first("activation_rms")
            traced = self.total > 1e-12  # else it fell below float32, and the weights tell
            factor = self.total ** (1 / (len(names) - 1)) if traced else mean(self.ideal[:-1])
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


@derived
def completed(history: History) -> Facts:
    """The facts with layers of the author's own as linear ones, where their first output shows that they are.

    That is: a module with one weight of random numbers, of deviation s, gives s times the root of one of the weight's
    extents times the size of what it takes. This extent is its fan-in.
    """
    facts = history.facts
    held: dict[str, list[Parameter]] = {}
    for parameter in facts.parameters:
        if parameter.role == "other" and len(parameter.shape) > 1:
            held.setdefault(parameter.layer, []).append(parameter)
    if not held:
        return facts
    stds, given, made = (history.first(name) for name in ("weight_std", "input_rms", "activation_rms"))
    found: dict[str, Layer] = {}
    for layer in facts.layers:
        own = held.get(layer.name, [])
        inner = any(other.name.startswith(f"{layer.name}.") for other in facts.layers)
        if layer.kind != "other" or not layer.called or len(own) != 1 or inner or not layer.name:
            continue
        std, into, out = stds.get(own[0].name, 0.0), given.get(layer.name, 0.0), made.get(layer.name, 0.0)
        sides = own[0].shape if len(own[0].shape) == 2 else (math.prod(own[0].shape[1:]),)
        fitting = [fan for fan in sides if 1 / FITTING < out / max(std * fan**0.5 * into, 1e-30) < FITTING]
        if fitting and std > 0:
            rows, columns = own[0].shape[:2]
            units = rows if fitting[0] != rows else columns
            found[layer.name] = replace(layer, kind="linear", fan_in=fitting[0], fan_out=units, units=units)
    if not found:
        return facts
    weights = {held[name][0].name for name in found}
    return facts.with_changes(
        layers=tuple(found.get(layer.name, layer) for layer in facts.layers),
        parameters=tuple(replace(p, role="weight") if p.name in weights else p for p in facts.parameters),
    )


@derived
def stacks(history: History) -> list[Stack]:
    """The longest stacks of trainable weight layers in which each takes only what the one before gives."""
    facts = completed(history)
    weights = {p.layer: p for p in facts.parameters if p.role == "weight" and p.trainable and p.name.endswith("weight")}
    layers = {layer.name: layer for layer in facts.layers}
    found: dict[str, tuple[Layer, ...]] = {}
    inner: set[str] = set()
    for layer in facts.layers:  # in order of execution
        if layer.kind not in ("linear", "conv") or layer.name not in weights:
            continue
        before = _weight_layer_before(layers, layer)
        found[layer.name] = (*found.get(before, ()), layer)
        inner.add(before)
    stds, signals = history.first("weight_std"), signals_in(history)
    chains: list[Stack] = []
    for last, stack in found.items():
        start, end = signals.get(stack[0].name, 0.0), signals.get(last, math.nan)
        if last not in inner and len(stack) > 1 and start > 0 and end >= 0:
            held = tuple(weights[layer.name] for layer in stack)
            deviations = tuple(stds.get(weight.name, 0.0) for weight in held)
            chains.append(Stack(stack, held, deviations, end / start))
    return chains


@dataclass(frozen=True)
class Stream:
    """A residual stream: what the last layer on it takes over what the first one gave.

    Attributes:
        layers: Weight layers from the first one on, without it.
        ends: Of these the last one of each branch, whose output is added.
        total: Signal at the end over that at the start.
    """

    start: Layer
    layers: tuple[Layer, ...]
    ends: tuple[Layer, ...]
    total: float


def stream(history: History, fewest: int = 2) -> Stream | None:
    """The residual stream that feeds the last layer, None without at least so many branches."""
    facts = history.facts
    known = {layer.name: layer for layer in facts.layers if layer.called}
    places = {name: place for place, name in enumerate(known)}
    last = next((layer for layer in reversed(known.values()) if len(layer.inputs) > fewest), None)
    if last is None or last.inputs[0] not in known:
        return None
    start = known[last.inputs[0]]
    layers = tuple(each for each in stacked(facts) if places[start.name] < places[each.name] < places[last.name])
    alone = {layer.inputs[0] for layer in known.values() if len(layer.inputs) == 1}
    ends = tuple(layer for layer in layers if layer.name not in alone)
    given, taken = signals_out(history).get(start.name, 0.0), signals_in(history).get(last.name, math.nan)
    if len(ends) < fewest or not given > 0 or not taken >= 0:
        return None
    return Stream(start, layers, ends, taken / given)


@of_facts
def stacked(facts: Facts) -> tuple[Layer, ...]:
    """The trainable linear and convolutional layers, in the order of execution."""
    trained = {p.layer for p in facts.parameters if p.role == "weight" and p.trainable}
    return tuple(
        layer for layer in facts.layers if layer.called and layer.kind in ("linear", "conv") and layer.name in trained
    )


def signals_in(history: History) -> dict[str, float]:
    """Spread over the batch of each layer's first input; a batch of one sample has none, there it is the size."""
    return history.first("input_signal") or history.first("input_rms")


def signals_out(history: History) -> dict[str, float]:
    """The same of the outputs."""
    return history.first("activation_signal") or history.first("activation_rms")


def mean(ratios: list[float]) -> float:
    """The geometric mean, 0 where a ratio is 0."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if min(ratios, default=0.0) > 0 else 0.0


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
