"""Gradients or updates too small for half precision: they become zero, or leave the weights as they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from netdoctor import remedies
from netdoctor.facts import Facts, Group, Layer, Loss, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import highest_rates
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule

CAUSED = (
    "no-gradient",
    "weights-not-updated",
    "learning-rate-too-small",
    "vanishing-gradient",
    "loss-plateau",
    "not-learning",
)
SMALLEST = 2.0**-24  # the smallest number of float16 above 0, 6e-8; its neighbours are as far apart
DIGITS = {"float16": 11, "bfloat16": 8}  # binary digits: a step below 2 to the minus that of a weight rounds to none


@rule(Severity.WARNING, explains=CAUSED)
def gradient_underflow(
    history: History,
    *,
    coarse: float = 4.0,  # smallest numbers of float16: gradients of this rms keep two binary digits at most
    gone: float = 0.5,  # share of zeros in such gradients: half of them lie below half the smallest number
    still: float = 0.5,  # share of a weight's elements that steps leave as they are; healthy bfloat16 runs: 0.1 to 0.3
    decayed: float = 0.2,  # of the largest learning rate: below, small steps are meant
    samples: int = 3,  # readings of the gradients at least
    patience: int = 8,  # readings of the updates at least: the first steps of a warm-up are small
) -> Iterator[Evidence | Skipped]:
    """Half precision rounds gradients to zero, or rounds away what the steps add to the weights.

    ## What it looks at
    Of layers whose output is float16: the share of exact zeros in the loss's gradient at the output, and the size of
    the rest against 6e-8, the smallest number of float16, where no gradient scaler is at work. Of weights in float16
    or bfloat16: the share of elements that a step leaves as they are though their gradient is not zero.

    ## Why it matters
    What is rounded away is lost at every step anew: the layers before it stand still, however long the training takes.

    ## When it is wrong
    Optimizers that carry the remainder along (Kahan summation, stochastic rounding, master weights of their own) move
    in rare, full steps. Gradients of a loss that is nearly 0 may vanish: runs that have learned get a note at most.

    ## References
    Micikevicius et al. 2018, Mixed Precision Training, sections 3.1 (rounded updates) and 3.2 (loss scaling). Kalamkar
    et al. 2019, A Study of BFLOAT16 for Deep Learning Training.
    """
    layers = {layer.name: layer for layer in history.facts.layers if layer.dtype in DIGITS}
    shares = history.table("unchanged_share")
    if not layers and not len(shares):
        return
    run = progress(history)
    learned = run is not None and run.learned
    zeros, sizes = history.table("gradient_zero_share"), history.table("activation_gradient_rms")
    scaled = history.latest("loss_scale").get("", 1.0) > 1.0
    lost = []
    if len(zeros) >= samples and len(zeros) == len(sizes) and not scaled and not learned:
        share, rms = (np.nan_to_num(table.values[-samples:], nan=-1.0).min(0) for table in (zeros, sizes))
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = np.where(share < 1, rms / np.sqrt(1 - share), 0.0)
        below = (share >= gone) & (rms >= 0) & (rest < coarse * SMALLEST)
        halves = [layers[name].dtype == "float16" if name in layers else False for name in zeros.columns]
        lost = [(name, float(share[i])) for i, name in enumerate(zeros.columns) if below[i] and halves[i]]
    losses = history.series("loss")[1]
    if lost and len(losses) and losses[-1] != 0:
        yield _flushed(history, lost, coarse, gone, samples)
        return
    rates = highest_rates(history)
    if len(shares) < patience or (len(rates) and not rates[-1] > decayed * rates.max()):
        return
    seen = {name: float(value) for name, value in zip(shares.columns, _mean(shares.values[-patience:]), strict=True)}
    weights = [p for p in history.facts.parameters if p.role == "weight" and seen.get(p.name, np.nan) >= 0]
    stuck = sorted((p for p in weights if seen[p.name] > still), key=lambda p: -seen[p.name])
    if 2 * len(stuck) > len(weights):
        yield _rounded(history, stuck, seen, still, learned)


def _mean(values: NDArray[np.float32]) -> NDArray[np.float64]:
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(seen, values, 0).sum(0, dtype=np.float64) / seen.sum(0))


def _flushed(history: History, lost: list[tuple[str, float]], coarse: float, gone: float, samples: int) -> Evidence:
    facts, table = history.facts, history.table("gradient_zero_share")
    names = tuple(name for name, _ in lost)
    worst = max(share for _, share in lost)
    loss = float(history.series("loss")[1][-1])
    return Evidence(
        f"In float16 {worst:.0%} of the gradients at {spoken(names[-1])} are 0, and what is left is below "
        f"{coarse * SMALLEST:.1g}: float16 has no number below 6e-8 but 0, and nothing scales the loss, {loss:.3g}.",
        layers=names,
        readings=(
            Reading(
                f"share of zeros in the gradient at {names[-1]}",
                worst,
                gone,
                steps=(int(table.steps[-samples]), int(table.steps[-1])),
            ),
        ),
        confidence=0.9,
        remedies=(remedies.autocast_to_bfloat16(facts), _scaler()),
    )


def _scaler() -> Remedy:
    return Remedy(
        action="Or scale the loss, so that its gradients fit into float16, and the gradients back before the step",
        code="scaler = torch.amp.GradScaler(x.device.type)  # once, before the loop\n"
        "scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()",
        source="Micikevicius et al. 2018, section 3.2",
        effect="gradients down to 1e-12 are kept",
    )


def _rounded(history: History, stuck: list[Parameter], seen: dict[str, float], still: float, learned: bool) -> Evidence:
    facts, table = history.facts, history.table("unchanged_share")
    kinds = [layer.dtype for layer in facts.layers if layer.dtype in DIGITS]
    kind = max(set(kinds), key=kinds.count) if kinds else "half precision"
    digits = f", which has {DIGITS[kind]} binary digits" if kind in DIGITS else ""
    rates = [group.learning_rate for group in facts.groups]
    rate = f" at a learning rate of {rates[0]:.3g}" if rates else ""
    share = float(np.median([seen[p.name] for p in stuck]))
    return Evidence(
        f"Weights are in {kind}{digits}: steps{rate} leave {share:.0%} of their elements as they are, for what they "
        "add is rounded away.",
        layers=tuple(dict.fromkeys(p.layer for p in stuck)),
        readings=(
            Reading(
                "share of the elements that a step does not change, median of these weights",
                share,
                still,
                steps=(int(table.steps[0]), int(table.steps[-1])),
            ),
        ),
        confidence=0.6 if learned else 0.85,
        severity=Severity.NOTE if learned else None,
        remedies=(remedies.weights_in_float32(kind),),
    )


def _history(
    kind: str, zeros: float, rms: float, unchanged: float | None = None, loss: float = 2.3, scale: float | None = None
) -> History:
    count = 12
    facts = Facts(
        layers=tuple(Layer(name, "linear", "Linear", "", 8, 8, 8, called=True, dtype=kind) for name in ("fc1", "fc2")),
        parameters=tuple(Parameter(f"{name}.weight", name, (8, 8), "weight", group=0) for name in ("fc1", "fc2")),
        groups=(Group("Adam", 0, 1e-4, momentum=0.9),),
        loss=Loss("cross-entropy"),
    )
    history = History.of(
        facts,
        loss=[loss + 0.01 * (-1) ** i for i in range(count)],
        constant_loss=[2.3] * count,
        gradient_zero_share={"fc1": [zeros] * count, "fc2": [zeros] * count},
        activation_gradient_rms={"fc1": [rms] * count, "fc2": [rms] * count},
        learning_rate={"0": [1e-4] * count},
    )
    steps = range(1, count + 1)
    if unchanged is not None:
        history.record_rows(steps, "unchanged_share", [[unchanged] * 2] * count, ("fc1.weight", "fc2.weight"))
    if scale is not None:
        history.record_rows(steps, "loss_scale", [[scale]] * count)
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history("float16", 1.0, 0.0),
        _history("float16", 0.7, 3e-8),
        _history("bfloat16", 0.5, 1e-3, unchanged=0.9),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history("float16", 0.5, 1e-4),  # healthy: the zeros are those of ReLUs
        _history("float16", 1.0, 0.0, loss=1e-4),  # converged
        _history("float16", 0.9, 3e-8, scale=65536.0),  # scaled
        _history("float32", 1.0, 0.0),  # not for its precision
        _history("bfloat16", 0.5, 1e-3, unchanged=0.2),  # healthy
        _history("bfloat16", 0.5, 1e-3, unchanged=0.9, loss=0.2),  # learns nevertheless: a note
    )
