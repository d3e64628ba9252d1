"""Probabilities where the loss takes logits and makes probabilities of them itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

from netdoctor import remedies
from netdoctor.ends import facing, head, last_layers, output_module
from netdoctor.facts import Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = ("vanishing-gradient", "learning-rate-too-small", "loss-plateau", "not-learning", "class-collapse")


@rule(Severity.ERROR, explains=CAUSED)
def redundant_softmax(
    history: History,
    *,
    classes: int = 2,  # softmax over fewer values is constant, which is another disease
) -> Iterator[Evidence | Skipped]:
    """The model applies softmax (or sigmoid) and the loss applies it once more.

    ## What it looks at
    The autograd nodes between the loss and the last layer: a softmax right before cross-entropy's own, or a sigmoid
    right before that of the binary cross-entropy with logits, whatever it is taken of.

    ## Why it matters
    The loss takes probabilities for logits. These lie between 0 and 1, so of K classes the right one gets at most
    e/(e + K − 1) however sure the model is: the loss cannot fall below a bound far above 0, and its gradient passes
    through two saturating functions.

    ## When it is wrong
    log_softmax before cross-entropy changes nothing: a note, for it takes time and misleads readers. A softmax whose
    result is scaled, mixed or passed through a layer on its way to the loss is not this.

    ## References
    PyTorch documentation, nn.CrossEntropyLoss ("unnormalized logits") and nn.BCEWithLogitsLoss. Schoop et al. 2021,
    UMLAUT; Nikanjam et al. 2021, NeuraLint, rule 14.
    """
    facts = history.facts
    loss = facts.loss
    if not loss.nodes:
        yield Skipped("the loss does not show how it is made")
        return
    if loss.kind == "binary-cross-entropy-with-logits":
        function = facing(loss)
        twice = function in ("sigmoid", "softmax")
        floor, own, criterion = 0.313, "sigmoid", "binary cross-entropy with logits"  # ln(1 + e^-1), of the ones
    else:
        twice = loss.kind == "cross-entropy" and facing(loss) == "softmax"
        twice = twice or (loss.kind == "nll" and head(loss).functions[-2:] == ("softmax", "softmax"))
        twice = twice and loss.softmax_extent >= classes
        floor, own, criterion = _floor(max(loss.softmax_extent, 1)), "softmax", "cross-entropy"
        function = "softmax"
    if not twice:
        if loss.kind == "cross-entropy" and facing(loss) == "log_softmax":
            yield _of_no_effect(facts)
        return
    module = output_module(facts, function)
    yield Evidence(
        message=f"The model ends in {function} after {spoken(loss.layer)}, and {criterion} applies {own} once more: "
        f"where the model is perfectly sure and right, the loss is still {floor:.3g}",
        layers=last_layers(facts, function),
        readings=(Reading("least loss that can be reached", floor, 0.0, "loss", (1, max(history.step, 1))),),
        confidence=0.97,
        remedies=(
            remedies.leave_out(
                "" if module is None else module.name,
                function,
                f"Give the loss the logits: leave {function} out of the model, and use it only to show probabilities",
                "PyTorch documentation, nn.CrossEntropyLoss and nn.BCEWithLogitsLoss",
                "the loss can fall to 0, and its gradient no longer fades",
            ),
        ),
    )


def _of_no_effect(facts: Facts) -> Evidence:
    """The log_softmax of a log_softmax is the same once more."""
    module = output_module(facts, "log_softmax")
    return Evidence(
        message=f"The model ends in log_softmax after {spoken(facts.loss.layer)}, and cross-entropy applies it once "
        "more: that changes nothing, and takes time.",
        layers=last_layers(facts, "log_softmax"),
        readings=(Reading("applications of log_softmax", 2.0, 1.0),),
        severity=Severity.NOTE,
        confidence=0.97,
        remedies=(
            remedies.leave_out(
                "" if module is None else module.name,
                "log_softmax",
                "Give the loss the logits: leave log_softmax out of the model, or take nn.NLLLoss for the loss",
                "PyTorch documentation, nn.CrossEntropyLoss and nn.NLLLoss",
                "the same loss, in less time",
            ),
        ),
    )


def _floor(classes: int) -> float:
    """Cross-entropy of softmax over a one-hot vector: −ln(e / (e + K − 1))."""
    return math.log((math.e + classes - 1) / math.e)


def _history(*nodes: str, kind: str = "cross-entropy", extent: int = 10) -> History:
    layers = (Layer("fc", "linear", units=extent, called=True), Layer("act", "activation", inputs=("fc",), called=True))
    return History.of(Facts(layers=layers, loss=Loss(kind, nodes, layer="fc", softmax_extent=extent)), loss=[2.3])


_NLL, _LOG, _SOFT, _SIGMOID = "NllLossBackward0", "LogSoftmaxBackward0", "SoftmaxBackward0", "SigmoidBackward0"
_BINARY = "BinaryCrossEntropyWithLogitsBackward0"


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(_NLL, _LOG, _SOFT),
        _history("DivBackward0", _NLL, _LOG, "ViewBackward0", _SOFT, "TransposeBackward0"),
        _history(_BINARY, "SqueezeBackward1", _SIGMOID, kind="binary-cross-entropy-with-logits"),
        _history(_BINARY, _SIGMOID, "AddBackward0", kind="binary-cross-entropy-with-logits"),  # of learned thresholds
        _history(_NLL, _LOG, _LOG),  # of no effect: a note
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(_NLL, _LOG),  # healthy
        _history(_BINARY, kind="binary-cross-entropy-with-logits"),
        _history(_BINARY, "SubBackward0", _SIGMOID, kind="binary-cross-entropy-with-logits"),  # scaled on its way
        _history(_NLL, _LOG, "BmmBackward0", _SOFT),  # attention
        _history(_NLL, _LOG, _SOFT, extent=1),
        History.of(Facts(), loss=[2.3]),  # unknown
    )
