"""Answers that do not depend on the input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.ends import first_layers, spread_over_batch
from netdoctor.facts import WEIGHTED, Facts, Layer, Loss, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = (
    "no-gradient",
    "weights-not-updated",
    "learning-rate-too-small",
    "loss-plateau",
    "not-learning",
    "class-collapse",
)
KINDS = (*WEIGHTED, "norm", "embedding")


@rule(Severity.ERROR, explains=CAUSED)
def input_not_used(
    history: History,
    *,
    equal: float = 1e-5,  # std of the output over the batch over its rms: sums in another order blur the last digits
    varies: float = 1e-3,  # the same of the input, which must vary
    cut: float = 1e-3,  # the same of some layer: between this and the above the signal fades, which is another disease
    silenced: float = 0.99,  # share of a layer's units that are silent, or saturated: they are to blame
    readings: int = 4,  # samples in which it must be so: a last layer that starts at zero leaves it with the first step
) -> Iterator[Evidence | Skipped]:
    """The output is the same for every sample though the input varies, or no gradient ever reaches the first weights.

    ## What it looks at
    The standard deviation of the last layer's output over the batch, from the first step on, and of the first layers'
    input; and whether the gradient of the first layers' weights is exactly zero, every element of it, while later
    weights have one. The layer named is the first whose output no longer varies.

    ## Why it matters
    The model can learn how frequent the targets are, and nothing else: somewhere on the way the input is dropped, by a
    mask the wrong way round, a wrong variable, zeros left over from a test.

    ## When it is wrong
    Units that die, and a signal that shrinks from layer to layer, make the output constant, too; they are named in its
    place. With a learning rate of zero, a last layer
    that starts at zero stays there; that is not reported.

    ## References
    Karpathy 2019, A Recipe for Training Neural Networks ("input-independent baseline", "use backprop to chart
    dependencies"). Ben Braiek & Khomh 2023, TheDeepChecker (zeroed inputs).
    """
    facts = history.facts
    rates = history.window("learning_rate", 1)
    if not facts.loss.layer or not np.nanmax(np.nan_to_num(rates), initial=0.0) > 0:
        yield Skipped("no step with a learning rate above 0, or no way from the loss to a layer")
        return
    outputs = spread_over_batch(history, "activation", facts.loss.layer)
    reached = history.table("gradient_nonzero")
    if len(outputs) < readings and len(reached) < readings:
        yield Skipped(f"fewer than {readings} samples of a batch of two and more")
        return
    same = len(outputs) >= readings and outputs.max() <= equal
    unreached = len(reached) >= readings and not reached.values.any()
    if not (same or unreached) or _silenced(history, silenced):
        return
    if same and _input_varies(history, varies):
        spreads = {
            layer.name: float(found.max())
            for layer in facts.layers
            if len(found := spread_over_batch(history, "activation", layer.name))
        }
        if any(equal < spread < cut for spread in spreads.values()):
            return
        lost = next((name for name, spread in spreads.items() if spread <= equal), facts.loss.layer)
        yield Evidence(
            message=f"The output of {spoken(facts.loss.layer)} is the same for every sample of a batch (its std is "
            f"{outputs.max():.1g} of its rms) though the input varies; the first layer that gives the same for all is "
            f"{spoken(lost)}",
            layers=(lost,),
            readings=(
                Reading("std of the output over the batch over rms", outputs.max(), equal, "", (1, history.step)),
            ),
            confidence=0.9,
            remedies=(_ask(facts), _follow(lost)),
        )
    elif unreached and _later_weights_learn(history, reached.columns):
        name = reached.columns[0]
        layer = name.rpartition(".")[0]
        yield Evidence(
            message=f"Every element of the gradient of {name} is exactly 0 in all {len(reached)} samples, while later "
            "weights have a gradient: what the loss depends on does not come from the input",
            layers=(layer,),
            readings=(Reading("elements of the gradient that are not 0", 0.0, 1.0, "", (1, history.step)),),
            confidence=0.85,
            remedies=(_ask(facts), _follow(layer)),
        )


def _silenced(history: History, silenced: float) -> bool:
    """Whether a layer's units, or its weights, let nothing through."""
    silent, saturated, rms = (history.latest(name) for name in ("silent_share", "saturated_share", "weight_rms"))
    rectified = [layer.name for layer in history.facts.layers if "relu" in (layer.function, layer.nonlinearity)]
    if any(parameter.role == "weight" and rms.get(parameter.name) == 0 for parameter in history.facts.parameters):
        return True
    return max((*(silent.get(name, 0.0) for name in rectified), *saturated.values()), default=0.0) >= silenced


def _input_varies(history: History, varies: float) -> bool:
    for layer in first_layers(history.facts, KINDS):
        spreads = spread_over_batch(history, "activation" if layer.kind == "embedding" else "input", layer.name)
        if spreads.max(initial=0.0) > varies:
            return True
    return False


def _later_weights_learn(history: History, first: tuple[str, ...]) -> bool:
    """Whether weights that are neither the first ones nor those of the last layer have a gradient."""
    skip, latest = history.facts.loss.layer, history.latest("gradient_rms")
    return any(
        latest.get(parameter.name, 0.0) > 0
        for parameter in history.facts.parameters
        if parameter.name not in first and parameter.role in ("weight", "norm") and parameter.layer != skip
    )


def _ask(facts: Facts) -> Remedy:
    return Remedy(
        action="Ask the model itself: does the answer change with the input?",
        code="x = next(iter(loader))[0].float().requires_grad_()  # token ids: the embedding's output in its place\n"
        "model.eval()\n"
        "model(x)[0].sum().backward()\n"
        "print(x.grad.abs().flatten(1).sum(1))  # only the first may differ from 0, and it must",
        source="Karpathy 2019, A Recipe for Training Neural Networks, step 2",
        effect="tells whether the answer for the first sample depends on it",
    )


def _follow(layer: str) -> Remedy:
    return Remedy(
        action=f"Look at forward() around {spoken(layer)}: an inverted mask, a wrong variable, zeros in its place?",
        code="# a padding mask is True where torch is to look away: mask = tokens == padding_index",
        source="PyTorch documentation, nn.MultiheadAttention (key_padding_mask)",
        effect="the input reaches the output",
    )


def _history(output: float, entry: float, reached: float = 5.0, rows: int = 5, rate: float = 0.1) -> History:
    layers = tuple(
        Layer(name, "linear", inputs=inputs, called=True)
        for name, inputs in (("in", ()), ("mid", ("in",)), ("out", ("mid",)))
    )
    names = tuple(layer.name for layer in layers)
    parameters = tuple(Parameter(f"{name}.weight", name, (8, 8), "weight") for name in names)
    history = History(Facts(layers=layers, parameters=parameters, loss=Loss("mse", ("MseLossBackward0",), layer="out")))
    for step in range(1, rows + 1):
        history.record(step, "activation_batch_signal", (entry, output, output), names)
        history.record(step, "activation_rms", (1.0, 1.0, 1.0), names)
        history.record(step, "input_batch_signal", (entry, entry, output), names)
        history.record(step, "input_rms", (1.0, 1.0, 1.0), names)
        history.record(step, "gradient_nonzero", (reached,), ("in.weight",))
        history.record(step, "gradient_rms", (reached, 0.1, 0.1), tuple(parameter.name for parameter in parameters))
        history.record(step, "learning_rate", (rate,), ("0",))
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(0.0, 0.9), _history(0.2, 0.9, reached=0.0))


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(0.3, 0.9),  # healthy
        _history(0.0, 0.0),  # constant input
        _history(0.0, 0.9, rows=2),  # too early
        _history(0.0, 0.9, rate=0.0),  # a last layer of zeros before a warm-up
    )
