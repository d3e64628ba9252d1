"""The gradient scaler lowers its scale and lowers it, and gradients overflow all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts, Layer, Loss, NonFinite, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.ERROR, explains=("non-finite", "weights-not-updated", "loss-plateau", "not-learning"))
def loss_scale_collapse(
    history: History,
    *,
    floor: float = 1.0,  # scale: below, it makes gradients smaller, which PyTorch calls a sign that something is wrong
    window: int = 20,  # steps: a scaler that starts at 65536 is below 1 after 17 that overflow
    skipped: float = 0.25,  # share of these steps left out; a healthy scaler leaves out one in 2,000
) -> Iterator[Evidence | Skipped]:
    """Inf or NaN among the gradients at any loss scale: the gradient scaler leaves out step after step.

    ## What it looks at
    The gradient scaler's scale, and how many of the last steps it left out. A scale below 1 that is still falling
    cannot be what makes gradients overflow: the forward pass exceeds 65504, the largest number of float16, or the
    backward pass makes Inf or NaN by itself. The loss of the steps left out tells which.

    ## Why it matters
    A step left out changes nothing, and a tiny scale lets the gradients of the other steps underflow.

    ## When it is wrong
    A loss in so large a unit that its gradients need a scale below 1, until the scale has settled.

    ## References
    Micikevicius et al. 2018, Mixed Precision Training, section 3.2. PyTorch documentation, torch.amp.GradScaler.update.
    """
    scales, (steps, counts) = history.series("loss_scale")[1], history.series("skipped_steps")
    if not len(scales) or len(steps) < 2:
        if history.facts.loss.nodes[:1] == ("MulBackward0",):
            yield Skipped("fewer than 2 readings of the gradient scaler")
        return
    scale, now = float(scales[-1]), int(steps[-1])
    before = np.searchsorted(steps, now - window, side="right") - 1
    since = int(steps[before]) if before >= 0 else 0
    left_out = float(counts[-1] - (counts[before] if before >= 0 else 0))
    origin = history.facts.non_finite
    losses = history.table("loss")
    finite = bool(len(losses)) and bool(np.isfinite(losses.values[-1]).any())
    if not finite and origin.stage in ("input", "target", "weights"):
        return  # what is NaN before any gradient is made
    if not (scale < floor and left_out >= skipped * (now - since)):
        return
    where = _forward(origin) if not finite else f"the loss is finite, {losses.values[-1].max():.3g}: the backward pass"
    yield Evidence(
        f"The gradient scaler left out {left_out:.0f} of the last {now - since} steps and went down from a scale of "
        f"{scales.max():.3g} to {scale:.2g}, and gradients are Inf or NaN all the same; {where} makes them.",
        layers=(origin.layer,) if not finite and origin.layer else (),
        readings=(
            Reading("scale of the gradient scaler", scale, floor, steps=(int(steps[0]), now)),
            Reading("share of the steps left out", left_out / max(now - since, 1), skipped, steps=(since, now)),
        ),
        confidence=0.9,
        remedies=_in_the_backward_pass() if finite else _in_the_forward_pass(history.facts, origin),
    )


def _forward(origin: NonFinite) -> str:
    place = f" at {spoken(origin.layer)}" if origin.layer else ""
    return f"the loss is Inf or NaN: the forward pass{place} exceeds what float16 holds, 65504, and"


def _in_the_forward_pass(facts: Facts, origin: NonFinite) -> tuple[Remedy, ...]:
    return (
        remedies.autocast_to_bfloat16(facts),
        Remedy(
            action="Or compute what overflows in float32" + (f", at {spoken(origin.layer)}" if origin.layer else ""),
            code="with torch.autocast(x.device.type, enabled=False):\n    x = x.float()  # and what is large of it",
            source="PyTorch documentation, Automatic Mixed Precision, autocast op reference",
            effect="values above 65504 stay finite",
        ),
    )


def _in_the_backward_pass() -> tuple[Remedy, ...]:
    return (
        Remedy(
            action="Let autograd name the operation whose gradient is Inf or NaN",
            code="with torch.autograd.detect_anomaly():\n    loss.backward()  # and compute the loss inside",
            source="PyTorch documentation, torch.autograd.detect_anomaly",
        ),
        Remedy(
            action="Keep square roots, norms and divisions away from 0, where their slope is infinite",
            code="torch.sqrt(x + 1e-8)  # in place of torch.sqrt(x); likewise x.norm() and x / y",
            effect="the gradient stays finite",
        ),
    )


def _history(scale: list[float], skipped: list[float], loss: float = 2.3, stage: str = "") -> History:
    count = len(scale)
    facts = Facts(
        layers=(Layer("fc", "linear", called=True, dtype="float16"),),
        loss=Loss("cross-entropy", nodes=("MulBackward0",)),
        non_finite=NonFinite(1, stage, "fc" if stage == "forward" else "") if stage else NonFinite(),
    )
    return History.of(facts, loss=[loss] * count, loss_scale=scale, skipped_steps=skipped)


_HALVED = [2.0 ** (16 - i) for i in range(25)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(_HALVED, [i + 1.0 for i in range(25)]),
        _history(_HALVED, [i + 1.0 for i in range(25)], float("nan"), "forward"),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([65536.0] * 25, [0.0] * 25),  # healthy
        _history(_HALVED[:9] + [256.0] * 16, [min(i + 1.0, 8.0) for i in range(25)]),  # the first steps overflow
        _history([0.25] * 25, [18.0] * 25),  # a loss in a large unit, and the scale has settled
        _history(_HALVED[:10], [i + 1.0 for i in range(10)]),  # too early
        _history(_HALVED, [i + 1.0 for i in range(25)], float("nan"), "input"),  # NaN in the data
    )
