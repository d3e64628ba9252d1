"""A last layer that is very sure, and wrong, before it has seen anything."""

from __future__ import annotations

import math
from collections.abc import Iterator

from netdoctor import remedies
from netdoctor.ends import head, last_layers
from netdoctor.facts import WEIGHTED, Facts, Layer, Loss, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = ("learning-rate-too-large", "exploding-gradient", "loss-plateau", "not-learning", "class-collapse")


@rule(Severity.WARNING, explains=CAUSED)
def unexpected_initial_loss(
    history: History,
    *,
    excess: float = 10.0,  # nats above that of equal shares; residual networks without norm start 6 above and train
    given: float = 5.0,  # rms of what the last layer is given: above, the signal has grown before
    sharpest: float = 200.0,  # factor on the logits: ArcFace takes 64, CLIP (section 2.5) clips at 100
    logits: float = 0.5,  # std of the logits that the remedy aims at: it costs 0.1 nats
) -> Iterator[Evidence | Skipped]:
    """The first loss is far above that of an output which knows nothing.

    ## What it looks at
    The loss of the first step against ln K for K classes, ln 2 for a yes or no: what equal shares cost, in the unit
    of the loss as it is computed; and the number, one over a temperature, that multiplies the logits.

    ## Why it matters
    Before the first step a model knows nothing, so it had better say so. Logits of std s cost about s²/2 on top. The
    first steps then do nothing but shrink the last layer, with gradients that are as large as they can get and that
    the layers below have to take.

    ## When it is wrong
    Where the signal has grown on its way to the last layer, or the input is out of scale, this rule leaves it to
    others. A network trained on other classes starts sure and wrong; there the finding is right, and the head needs
    fresh weights. Logits that are scaled on purpose, as cosines in contrastive losses and ArcFace, are not judged,
    unless by far more than these need.

    ## References
    Karpathy 2019, A Recipe for Training Neural Networks ("verify loss @ init"). Ben Braiek & Khomh 2023, TheDeepChecker
    (off by ln K). Goyal et al. 2017, section 5.1 (last layer N(0, 0.01²)).
    """
    facts = history.facts
    loss = facts.loss
    sharp = loss.kind == "cross-entropy" and abs(loss.sharpness) > sharpest
    categorical = loss.kind == "cross-entropy" and (sharp or head(loss).functions == ("log_softmax",))
    binary = loss.kind == "binary-cross-entropy-with-logits" and head(loss).functions == ()
    first, uninformed = history.first("loss").get(""), history.first("uninformed_loss").get("")
    if not (categorical or binary) or first is None or not uninformed or facts.several_losses:
        yield Skipped("no first loss over logits of known classes")
        return
    classes = 2 if binary else loss.classes or loss.softmax_extent
    nat = uninformed / math.log(max(classes, 2))  # of the user's loss
    if nat <= 0 or not (first - uninformed) / nat > excess:
        return
    if sharp:
        yield _hard(history, first, uninformed, excess * nat, sharpest)
        return
    if history.first("input_rms").get(loss.layer, 1.0) > given:
        return
    layer = next((layer for layer in facts.layers if layer.name == loss.layer), None)
    signal = history.first("activation_signal").get(loss.layer, math.nan)
    bias = next((p.name for p in facts.parameters if p.layer == loss.layer and p.role == "bias"), "")
    offset = history.first("weight_rms").get(bias, 0.0)
    why = f"logits vary by {signal:.3g} over the samples" if signal > 1 else ""
    why = f"its bias has rms {offset:.3g}" if offset > 1 and not offset < signal else why
    yield Evidence(
        message=f"The first loss is {first:.4g}; an output that knows nothing has {uninformed:.4g} "
        f"({'ln 2' if binary else f'ln {classes}'}): {spoken(loss.layer)} is sure before it has learned anything"
        + (f", {why}" if why else ""),
        layers=last_layers(facts),
        readings=(
            Reading("first loss", first, uninformed + excess * nat, "loss", (1, 1)),
            Reading("std of the logits over samples", signal, 1.0, "x", (1, 1)),
            Reading("rms of the last bias", offset, 1.0, "w", (1, 1)),
        ),
        confidence=0.9,
        remedies=(_quiet(facts, layer, signal, logits),)
        if layer is not None and layer.fan_in
        else (_look(loss.layer),),
    )


def _hard(history: History, first: float, uninformed: float, excess: float, sharpest: float) -> Evidence:
    """Logits that a temperature makes too large."""
    loss = history.facts.loss
    factor, classes = abs(loss.sharpness), loss.classes or loss.softmax_extent
    return Evidence(
        message=f"The first loss is {first:.4g}; an output that knows nothing has {uninformed:.4g} (ln {classes}): the "
        f"logits are divided by a temperature of {1 / factor:.3g}, which makes of every small difference a sure answer",
        layers=last_layers(history.facts),
        readings=(
            Reading("factor on the logits", factor, sharpest, "", (1, 1)),
            Reading("first loss", first, uninformed + excess, "loss", (1, 1)),
        ),
        confidence=0.95,
        remedies=(
            Remedy(
                action="Raise the temperature to 0.1; 0.05 to 0.5 are usual for cosines",
                code="loss = F.cross_entropy(similarity / 0.1, target)",
                source="Chen et al. 2020, A simple framework for contrastive learning, table 5; Radford et al. 2021, "
                "section 2.5",
                effect="all negatives count, and the gradients are as many times smaller",
            ),
        ),
    )


def _quiet(facts: Facts, layer: Layer, signal: float, logits: float) -> Remedy:
    """Small weights and no bias; the weights stay where the bias alone is to blame."""
    biased = any(parameter.layer == layer.name and parameter.role == "bias" for parameter in facts.parameters)
    std = None if biased and signal < 1 else logits / math.sqrt(layer.fan_in)
    lines = [f'layer = model.get_submodule("{layer.name}")']
    lines += [] if std is None else [f"nn.init.normal_(layer.weight, std={std:.3g})"]
    lines += ["nn.init.zeros_(layer.bias)"] if biased else []
    what = [] if std is None else [f"weights of std {std:.3g}"]
    what += ["a bias of 0"] if biased else []
    return Remedy(
        action=f"Start {spoken(layer.name)} with {' and '.join(what)}",
        code="\n".join(lines),
        source="Goyal et al. 2017, section 5.1; Karpathy 2019, A Recipe for Training Neural Networks",
        effect="the first loss is that of equal shares",
        treatment=remedies.quiet_head(layer.name, std) if layer.kind in WEIGHTED[:1] and layer.name else None,
    )


def _look(layer: str) -> Remedy:
    return Remedy(
        action=f"Look at the logits that {spoken(layer)} gives before the first step: their std should be below 1",
        code="with torch.no_grad():\n    print(model(x).std(), model(x).mean(0))",
        source="Karpathy 2019, A Recipe for Training Neural Networks",
    )


def _history(first: float, classes: int = 10, *nodes: str, given: float = 1.0, sharpness: float = 1.0) -> History:
    nodes = nodes or ("NllLossBackward0", "LogSoftmaxBackward0")
    loss = Loss("cross-entropy", nodes, layer="fc", classes=classes, sharpness=sharpness)
    facts = Facts(
        layers=(Layer("fc", "linear", fan_in=64, called=True),),
        parameters=(Parameter("fc.weight", "fc", (classes, 64), "weight"), Parameter("fc.bias", "fc", (10,), "bias")),
        loss=loss,
    )
    return History.of(
        facts,
        loss=[first, first],
        uninformed_loss=[math.log(classes)] * 2,
        activation_signal={"fc": [0.8 * first] * 2},
        input_rms={"fc": [given] * 2},
        weight_rms={"fc.weight": [1.0] * 2, "fc.bias": [0.1] * 2},
    )


_COSINES = ("NllLossBackward0", "LogSoftmaxBackward0", "MulBackward0", "MmBackward0", "DivBackward0")


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(37.6),
        _history(41.0, 27),
        _history(25.0, 50_000),
        _history(31.5, 64, *_COSINES, sharpness=1000.0),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(2.34),  # healthy
        _history(3.4),  # He's initialisation
        _history(1e7, given=2e6),  # the signal explodes before
        _history(0.02),  # goes on from a checkpoint
        _history(45.0, 10, *_COSINES, sharpness=64.0),
        History.of(Facts(loss=Loss("cross-entropy", ("NllLossBackward0", "LogSoftmaxBackward0")))),  # too early
    )
