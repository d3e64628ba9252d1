"""Targets of a scale that outputs take long to reach."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.ends import last_layers
from netdoctor.facts import Facts, Group, Layer, Loss
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.measured_remedies import POWER, standardise_targets
from netdoctor.progress import progress
from netdoctor.rules.base import rule

CAUSED = (
    "learning-rate-too-large",
    "learning-rate-too-small",
    "exploding-gradient",
    "non-finite",
    "dead-units",
    "saturated-units",
    "covariate-shift",
    "loss-plateau",
    "not-learning",
)


@rule(Severity.WARNING, explains=CAUSED)
def unnormalized_target(
    history: History,
    *,
    large: float = 30.0,  # rms; targets of scale 10 train as well as scaled ones, and outputs start at about 1
    near: float = 0.3,  # of the targets' rms that the first outputs reach where the model scales them itself
    readings: int = 3,  # batches of targets
) -> Iterator[Evidence | Skipped]:
    """The targets of a regression are far larger than the outputs that a fresh network gives.

    ## What it looks at
    Root mean square, mean and standard deviation of the targets, against the outputs of the first step.

    ## Why it matters
    Outputs start at about 1, and a step of Adam moves each weight by the learning rate at most: hundreds of steps pass
    before the output is in the range of the targets. Gradients of a squared error are larger by the scale, so that
    plain SGD kills units or diverges. Regularisation and clipping are made for a loss of about 1, too.

    ## When it is wrong
    Models that scale their output themselves start in the range of the targets and are not reported, nor are runs that
    have left the best constant prediction behind. Values of a growing return in reinforcement learning count as they
    were at the start.

    ## References
    LeCun et al. 1998, Efficient BackProp, section 4.5. Bishop 1995, Neural Networks for Pattern Recognition, section
    8.2.
    """
    facts = history.facts
    rms = history.series("target_rms")[1]
    if facts.loss.kind not in POWER or len(rms) < readings:
        yield Skipped(f"fewer than {readings} batches of targets that are compared as values")
        return
    low, high = (history.first(name).get("", 0.0) for name in ("output_low", "output_high"))
    scale, reached = float(rms[:readings].mean()), max(abs(low), abs(high))
    state = progress(history)
    if not scale > large or reached > near * scale or (state is not None and state.learned):
        return
    mean, std = (float(history.series(name)[1][-1]) for name in ("target_mean", "target_std"))
    yield Evidence(
        message=f"The targets have rms {scale:.4g} (mean {mean:.4g}, std {std:.4g}); the outputs start between "
        f"{low:.3g} and {high:.3g}",
        layers=last_layers(facts),
        readings=(
            Reading("rms of the targets", scale, large, "y"),
            Reading("mean of the targets", mean, 0.0, "y"),
            Reading("std of the targets", std, 1.0, "y"),
            Reading("largest output of the first step", reached, near * scale, "y", (1, 1)),
        ),
        confidence=0.9,
        remedies=standardise_targets(history),
    )


def _history(rms: float, output: float, loss: list[float], kind: str = "mse") -> History:
    facts = Facts(
        layers=(Layer("fc", "linear", called=True),),
        groups=(Group("Adam", 0, 1e-3),),
        loss=Loss(kind, ("MseLossBackward0",), layer="fc"),
    )
    count = len(loss)
    return History.of(
        facts,
        loss=loss,
        constant_loss=[(0.5 * rms) ** 2] * count,
        target_rms=[rms] * count,
        target_mean=[0.9 * rms] * count,
        target_std=[0.5 * rms] * count,
        output_low=[-output] * count,
        output_high=[output] * count,
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(170, 0.5, [28_000.0] * 5),
        _history(2e5, 0.3, [5e10 * 9**step for step in range(15)]),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(1, 0.5, [1.0] * 5),  # healthy
        _history(10, 0.5, [100.0] * 5),
        _history(170, 120, [9000.0] * 5),  # the model scales its output
        _history(170, 0.5, [28_000 * 0.8**step for step in range(60)]),  # converged
        _history(170, 0.5, [28_000.0] * 2),  # too early
    )
