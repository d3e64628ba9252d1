"""Gradients that shrink on their way back to the first layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from netdoctor import remedies
from netdoctor.depth import Profile, profile
from netdoctor.facts import Facts, Layer, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import Progress, first_updates, progress
from netdoctor.rules.base import rule
from netdoctor.through_time import Memory, shortest_memory

MIXING = {"AddmmBackward0", "MmBackward0", "BmmBackward0", "ConvolutionBackward0"}  # layers of another network
BOUNDED = {"sigmoid", "tanh", "softsign", "hardtanh", "hardsigmoid"}


@rule(Severity.WARNING, explains=("saturated-units", "covariate-shift", "underfitting", "loss-plateau", "not-learning"))
def vanishing_gradient(
    history: History,
    *,
    severe: float = 1e-4,  # first over last layers; measured: healthy ≥ 0.02, 8 sigmoid layers 1e-5, both 3 seeds
    low: float = 1e-2,  # the same, where nothing is learned; measured: 5 sigmoid layers 3.6e-3 (AutoTrainer: 1e-3)
    adaptive: float = 1e-3,  # the same with Adam and its kin, which divide the scale out; measured: 1.5e-3 still learns
    patience: int = 50,  # steps without learning before ``low`` counts (slow healthy starts last up to 100)
    samples: int = 3,  # fewest readings: the first step alone misleads with zero-initialised layers
    update: float = 0.1,  # of a weight's norm in a step: what such steps did to the weights is their doing
    forgotten: float = 1e-7,  # first over last inputs of a sequence: float32's rounding drowns it in the sum over time
    faded: float = 1e-2,  # of the norm of all gradients at the start; a logistic loss has it at a logit of -5
    worse: float = 0.1,  # of the first loss by which it must have risen for that, whatever the noise
    patience_time: int = 30,  # steps without learning before the last two count; healthy recurrent layers keep 1e-5
) -> Iterator[Evidence | Skipped]:
    """The first layers get orders of magnitude less gradient than the last ones, and the model does not learn.

    ## What it looks at
    The root mean square of each weight's gradient and of the loss's gradient at each layer's output, medians over the
    last 8 samples, relative to the last three weight layers. Both must be low in the first quarter of the layers.
    Biases, norms, embeddings, frozen, unconnected and zero-initialised parameters are left out. In recurrent layers of
    which only the last state is used: the gradient of that state by the first tenth of the inputs over that by the
    last tenth, made anew for two sequences. Both must have been low from the start. At last the norm of all gradients
    of a network that learns through another one, a generator, where its loss is worse than at the start.

    ## Why it matters
    The first layers stay as they were initialised: the last ones learn from features that mean nothing. A recurrent
    layer learns nothing of what came first.

    ## When it is wrong
    Adam divides the scale out: deep networks with a ratio of 1e-3 may start after some 50 steps. A run that has learned
    is never reported. A sequence whose end alone matters needs no memory, and learns without it.

    ## References
    Glorot & Bengio 2010; He et al. 2015, section 2.2; Zhang et al. 2021, AutoTrainer (first/last < 1e-3). Bengio et al.
    1994, Learning long-term dependencies with gradient descent is difficult; Pascanu et al. 2013, section 2.
    """
    state = progress(history)
    if state is not None and state.learned:
        return
    memory = shortest_memory(history)
    waited = state is not None and state.stalled and state.steps >= patience_time
    if memory is not None and waited and max(memory.start, memory.ratio) <= forgotten:
        yield _forgetting(memory, forgotten)
        return
    if waited and state is not None and state.constant is None and state.gain < -worse:
        found = _flat(history, state, faded, update)
        if found is not None:
            yield found
            return
    depth = profile(history)
    if depth is None or depth.samples < samples:
        yield Skipped(f"fewer than {samples} samples of the gradients of 3 weight layers")
        return
    both = np.fmax(depth.ratio, depth.output_ratio)
    first = float(both[: max(1, len(both) // 4)].max())
    underflow = first == 0 and not ((both > 0) & (both < severe)).any()  # cut off, not shrunk: another disease
    scaled = any(group.optimizer.startswith(remedies.ADAPTIVE) for group in history.facts.groups)
    bound = adaptive if scaled else low
    if not first < bound or underflow or first_updates(history) >= update or _began(history, depth) > low:
        return
    stalled = state is not None and state.stalled and history.step >= patience
    if not (stalled or (first < severe and (state is not None or history.step <= patience))):
        return
    early = int(np.argmax(both >= (bound if first >= severe else severe))) or 1
    start, end = depth.weights[0], depth.weights[-1]
    factor = float(max(both[0], 1e-45) ** (1 / (len(both) - 1)))
    yield Evidence(
        message=f"Gradients shrink to {factor:.2g}× per layer on their way back: "
        f"rms {end:.2g} at {spoken(depth.layers[-1])}, {start:.2g} at {spoken(depth.layers[0])}, "
        f"{depth.ratio[0]:.1g} of the last layers (healthy: 0.1 … 3)",
        layers=depth.layers[:early],
        readings=(
            Reading("gradient of the first over the last weights", float(depth.ratio[0]), bound, "", depth.steps),
            Reading("the same of the outputs", float(depth.output_ratio[0]), bound, "", depth.steps),
        ),
        confidence=0.95 if first < severe else 0.8,
        remedies=cures(history, depth),
    )


def _began(history: History, depth: Profile) -> float:
    """First reading of the gradient of the first weights over that of the last, 0 where unknown."""
    gradients, weights = history.first("gradient_rms"), map(history.facts.weight, (depth.layers[0], depth.layers[-1]))
    first, last = (gradients.get(weight.name, 0.0) if weight is not None else 0.0 for weight in weights)
    return first / last if last > 0 else 0.0


def _flat(history: History, state: Progress, faded: float, update: float) -> Evidence | None:
    """A network whose judge has won: its loss is flat, every gradient is gone."""
    steps, norms = history.series("gradient_norm")
    judged = any(node in MIXING for node in history.facts.loss.nodes)
    if len(norms) < 16 or not judged or first_updates(history) >= update:
        return None
    before, now = float(np.median(norms[:8])), float(np.median(norms[-8:]))
    if not 0 < now <= faded * before:
        return None
    return Evidence(
        message=f"All gradients have shrunk from a norm of {before:.2g} to {now:.2g}, while the loss went from "
        f"{state.start:.3g} to {state.recent:.3g}: it is flat there.",
        readings=(Reading("gradient norm", now, faded * before, "loss/w", (int(steps[0]), int(steps[-1]))),),
        confidence=0.7,
        remedies=(
            Remedy(
                action="Use a loss whose gradient grows where the model is wrong; in a GAN the non-saturating one",
                code="loss = F.softplus(-score).mean()  # -log D(G(z)), instead of log(1 - D(G(z)))",
                source="Goodfellow et al. 2014, Generative adversarial nets, section 3",
                effect="the gradient is largest where the opponent wins",
            ),
        ),
    )


def _forgetting(memory: Memory, bound: float) -> Evidence:
    """A recurrent layer whose first inputs leave no trace in its last state."""
    layer, length = memory.layer, memory.length or 100
    per = f"shrink to {memory.factor:.2g}× per step of a sequence" if memory.length else "shrink along a sequence"
    hold = (remedies.gated if layer.type == "RNN" else remedies.remember)(layer, length)
    return Evidence(
        message=f"Gradients {per} on their way back through {spoken(layer.name)}: its last state depends on the first "
        f"inputs {memory.ratio:.1g} times as much as on the last ones, and the model does not learn.",
        layers=(layer.name,),
        readings=(Reading("gradient by the first over the last inputs", memory.ratio, bound, "", memory.steps),),
        confidence=0.85,
        remedies=(
            hold,
            Remedy(
                action="Answer from all states: their mean, or attention over them, instead of the last one",
                code="states, _ = recurrent(x)\nanswer = head(states.mean(1))  # with batch_first=True",
                source="Bahdanau et al. 2015, section 3.1",
                effect="every input is a few steps away from the answer",
            ),
        ),
    )


def cures(history: History, depth: Profile) -> tuple[Remedy, ...]:
    """What the cause asks for: another nonlinearity, another initialisation, normalisation, shortcuts."""
    facts, stds = history.facts, history.first("weight_std")
    hidden = depth.layers[:-1]
    functions = [facts.layer(name).nonlinearity for name in hidden]
    weights = [facts.weight(name) for name in hidden]
    ideal = [remedies.ideal_std(facts.layer(name)) for name in hidden]
    found = [stds.get(w.name, i) / i for w, i in zip(weights, ideal, strict=True) if w is not None]
    simple = all(facts.layer(name).kind in ("linear", "conv") for name in depth.layers)
    best: list[Remedy] = []
    if simple and (functions.count("sigmoid") + functions.count("hardsigmoid")) * 2 > len(functions):
        best.append(rectify(facts, depth.layers))
    elif simple and found and not 0.5 < float(np.median(found)) < 2:
        best.append(remedies.initialise(facts, depth.layers))
    elif simple and sum(function in BOUNDED for function in functions) * 2 > len(functions):
        best.append(rectify(facts, depth.layers))
    shortcuts = Remedy(
        action="Add shortcuts around every two layers",
        code="x = x + block(x)  # in forward, where input and output of the block have the same shape",
        source="He et al. 2016, section 3.1",
        effect="the gradient reaches the first layers undiminished",
    )
    return (*best, remedies.normalise(facts, hidden), shortcuts)


def rectify(facts: Facts, layers: Sequence[str]) -> Remedy:
    """ReLU in place of the bounded nonlinearities between ``layers``, and weights that fit it."""
    places = {layer.name: index for index, layer in enumerate(facts.layers)}
    end = places[layers[-1]]
    modules = tuple(
        layer.name for layer in facts.layers[:end] if layer.function in BOUNDED and layer.kind == "activation"
    )
    own = facts.layer(layers[-1]).nonlinearity not in BOUNDED  # else the output may share a module with the hidden ones
    return remedies.rectify(modules, layers, certain=own)


def _history(gradients: Sequence[float], loss: Sequence[float], function: str = "sigmoid") -> History:
    names = [f"layers.{index}" for index in range(len(gradients))]
    facts = Facts(
        layers=tuple(Layer(name, "linear", "Linear", "", 64, 64, 64, function) for name in names),
        parameters=tuple(Parameter(f"{name}.weight", name, (64, 64), "weight") for name in names),
    )
    count = len(loss)
    weights = {f"{name}.weight": [value] * count for name, value in zip(names, gradients, strict=True)}
    outputs = {name: [value] * count for name, value in zip(names, gradients, strict=True)}
    return History.of(
        facts, gradient_rms=weights, activation_gradient_rms=outputs, loss=loss, constant_loss=[2.3] * count
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], [2.3] * 5),
        _history([1e-5, 1e-4, 1e-3, 1e-2, 1e-2], [2.3, 2.31] * 30),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([5e-3, 6e-3, 8e-3, 1e-2], [2.3] * 60, "relu"),  # healthy gradients
        _history([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], [2.3] * 2),  # too early
        _history([1e-9, 1e-9, 1e-9, 1e-9], [2.3 * 0.9**i for i in range(60)]),  # converged
        _history([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], [2.3 * 0.9**i for i in range(60)]),  # learns nevertheless
    )
