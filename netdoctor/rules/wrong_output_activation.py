"""A nonlinearity at the output that keeps it from where the loss, or the targets, want it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.ends import facing, head, last_layers, output_module
from netdoctor.facts import Facts, Layer, Loss, spoken
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

INFINITY = math.inf
RANGES = {
    "relu": (0.0, INFINITY),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softplus": (0.0, INFINITY),
    "logsigmoid": (-INFINITY, 0.0),
    "log_softmax": (-INFINITY, 0.0),
    "elu": (-1.0, INFINITY),  # with its default alpha
    "gelu": (-0.17, INFINITY),  # its minimum, at -0.75
    "silu": (-0.28, INFINITY),  # at -1.28
    "mish": (-0.31, INFINITY),  # at -1.19
    "hardswish": (-0.375, INFINITY),  # at -1.5
}
LOGITS = {"cross-entropy": "cross-entropy", "binary-cross-entropy-with-logits": "binary cross-entropy with logits"}
CAUSED = (
    "unnormalized-target",
    "learning-rate-too-large",
    "learning-rate-too-small",
    "vanishing-gradient",
    "dead-units",
    "saturated-units",
    "loss-plateau",
    "not-learning",
    "class-collapse",
)


@rule(Severity.WARNING, explains=CAUSED)
def wrong_output_activation(
    history: History,
    *,
    beyond: float = 0.1,  # share of the targets' range outside what the output can reach: single outliers stay below
    batches: int = 2,  # whose targets tell
    samples: int = 20,  # readings at the start whose median counts
) -> Iterator[Evidence | Skipped]:
    """The last nonlinearity keeps the output out of the range that the loss or the targets ask for.

    ## What it looks at
    The nonlinearity applied directly to the last layer. Where the loss takes logits (cross-entropy, binary
    cross-entropy with logits) there should be none. Where values are compared, the range of what they are compared with
    right behind a nonlinearity is held against the least and the largest target of the first batches.

    ## Why it matters
    Targets out of range can never be met, and pull the output to its bound, where the gradient fades. Logits without a
    sign, or between two bounds, make a classifier that can be neither sure nor, below zero, told apart.

    ## When it is wrong
    Bounded values are meant where a factor follows (10 tanh x, 1 + 4 sigmoid x), which is not reported. A sigmoid
    before a binary cross-entropy with logits is `redundant-softmax`. Leaky ReLU reaches every value and is left alone.

    ## References
    Goodfellow et al. 2016, Deep Learning, section 6.2.2. Schoop et al. 2021, UMLAUT; Zhang et al. 2021, AutoTrainer
    ("improper activation").
    """
    facts = history.facts
    loss = facts.loss
    if not loss.nodes:
        yield Skipped("the loss does not show how it is made")
        return
    readings: tuple[Reading, ...] = ()
    if loss.kind in LOGITS:
        functions = head(loss).functions
        before = functions[:-1] if loss.kind == "cross-entropy" else functions
        function = before[-1] if before and functions[-1:] != ("softmax",) else ""
        if function not in RANGES or "softmax" in function or (function == "sigmoid" and loss.kind.startswith("bin")):
            return
        low, high = RANGES[function]
        why = f"{LOGITS[loss.kind]} takes logits of any sign and size"
        readings = (Reading("bound of the logits", low if math.isfinite(low) else high),)
    elif loss.kind in ("mse", "l1", "smooth-l1"):
        function = facing(loss)
        if function not in RANGES:
            return
        lows, highs = history.series("target_low")[1][:samples], history.series("target_high")[1][:samples]
        if len(lows) < batches:
            yield Skipped(f"fewer than {batches} batches of targets")
            return
        least, largest = float(np.median(lows)), float(np.median(highs))
        low, high = RANGES[function]
        out = max(low - least, largest - high) / (largest - least) if largest > least else 0.0
        if not out > beyond:
            return
        why = f"the targets lie between {least:.3g} and {largest:.3g}"
        readings = (
            Reading("share of the targets' range out of reach", out, beyond),
            Reading("least target", least, low, "y"),
            Reading("largest target", largest, high, "y"),
        )
    else:
        return
    module = output_module(facts, function)
    reach = f"between {low:g} and {high:g}" if math.isfinite(low + high) else _above(low, high)
    yield Evidence(
        message=f"The output of {spoken(loss.layer)} passes through {function}, which gives values {reach}, but {why}",
        layers=last_layers(facts, function),
        readings=readings,
        confidence=0.95,
        remedies=(
            remedies.leave_out(
                "" if module is None else module.name,
                function,
                f"Leave {function} out: the last layer is linear",
                "Goodfellow et al. 2016, Deep Learning, section 6.2.2",
                "the output can reach its targets",
            ),
        ),
    )


def _above(low: float, high: float) -> str:
    return f"of at least {low:g}" if math.isfinite(low) else f"of at most {high:g}"


def _history(*nodes: str, kind: str = "mse", targets: tuple[float, float] = (-2.1, 2.3), batches: int = 5) -> History:
    layers = (Layer("fc", "linear", called=True), Layer("act", "activation", inputs=("fc",), called=True))
    facts = Facts(layers=layers, loss=Loss(kind, nodes, layer="fc"))
    low, high = targets
    return History.of(facts, target_low=[low] * batches, target_high=[high] * batches)


_NLL, _LOG, _MSE = "NllLossBackward0", "LogSoftmaxBackward0", "MseLossBackward0"


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(_NLL, _LOG, "ReluBackward0", kind="cross-entropy"),
        _history(_MSE, "SigmoidBackward0"),
        _history("MeanBackward0", "AbsBackward0", "SubBackward0", "TanhBackward0", kind="l1", targets=(-1, 5.5)),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(_NLL, _LOG, kind="cross-entropy"),  # healthy
        _history(_NLL, _LOG, "MulBackward0", "TanhBackward0", kind="cross-entropy"),  # logits capped on purpose
        _history(_MSE, "SigmoidBackward0", targets=(0, 1)),
        _history(_MSE, "AddBackward0", "MulBackward0", "SigmoidBackward0", targets=(1, 5)),  # widened to the targets
        _history(_MSE, "TanhBackward0", targets=(-1, 1.05)),
        _history(_MSE, "ReluBackward0", targets=(0, 120)),  # counts
        _history(_MSE, "SigmoidBackward0", batches=1),  # too early
    )
