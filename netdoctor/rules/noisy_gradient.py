"""Gradients that are mostly noise: steps cancel each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from netdoctor.facts import Facts, Group, Loss, Parameter
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import Plateau, bounces, highest_rates, reference
from netdoctor.history import History
from netdoctor.progress import UNTOLD, Progress, progress, weight_updates
from netdoctor.remedies import scale_learning_rate
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("oscillating-loss", "loss-plateau"))
def noisy_gradient(
    history: History,
    *,
    excess: float = 0.1,  # of what there is to lose: so much the noise holds the loss up; 210 healthy runs: 0.07
    few: int = 16,  # samples in a batch: up to here more of them cost next to nothing
    opposed: float = -0.1,  # cosine of successive gradients: below, curvature turns the steps round, not noise
    agreeing: float = 0.1,  # the same: above, a tenth of each step is of use and adds up
    stride: float = 0.03,  # ‖Δw‖/‖w‖, rms of the steps: a thousand that lead nowhere replace the weights; usual: 3e-3
    patience: int = 100,  # steps before a walk is judged
    samples: int = 30,  # readings of the cosine that tell its mean
) -> Iterator[Evidence | Skipped]:
    """The gradients of successive batches have so little in common that steps cancel, and the loss stays up.

    ## What it looks at
    On a level stretch of the loss with a batch of few samples: by how much the noise of the steps holds the loss up,
    a quarter of what they promise to first order. Where the loss has no bound that is known, returns and rewards for
    one: whether successive gradients have anything in common (mean cosine), and how large the steps are against the
    weights.

    ## Why it matters
    The mean of the gradients is what trains; noise adds a random walk, whose level is proportional to the learning rate
    and inversely to the batch size. More steps do not lower it.

    ## When it is wrong
    Noise that is part of the plan, as in simulated annealing.

    ## References
    Bottou, Curtis and Nocedal 2018, theorem 4.6. McCandlish et al. 2018, An Empirical Model of Large-Batch Training.
    Balles et al. 2017, Coupling Adaptive Batch Sizes with Learning Rates. Greensmith et al. 2004 (baselines).
    """
    run = progress(history)
    if run is None:
        yield Skipped(UNTOLD)
        return
    batch = history.facts.batch
    if 0 < batch <= few:
        level = bounces(history, excess)
        if level is not None and level.cosine >= opposed:
            yield _held_up(history, level, excess)
        elif run.constant is None and run.steps >= patience:
            yield from _wandering(history, run, (opposed, agreeing), stride, samples)


def _held_up(history: History, level: Plateau, bound: float) -> Evidence:
    least = reference(history)
    batch = history.facts.batch
    share = level.excess / least
    factor = 2.0 ** math.ceil(math.log2(max(share / (bound / 4), 2)))
    return Evidence(
        f"The loss has been {level.level:.3g} ± {level.noise:.2g} since step {level.since}: with {batch} sample"
        f"{'s' if batch > 1 else ''} in a batch the noise of the gradients holds it up by about {level.excess:.2g}; "
        f"successive ones have nothing in common (cosine {level.cosine:+.2f}).",
        readings=(
            Reading(
                "loss that the noise of the steps keeps, of what there is to lose",
                share,
                bound,
                steps=(level.since, level.until),
            ),
            Reading("cosine of successive gradients", level.cosine, None, steps=(level.since, level.until)),
        ),
        confidence=0.85,
        remedies=(_larger_batch(batch, factor), scale_learning_rate(1 / factor, level.rate or None)),
    )


def _wandering(
    history: History, run: Progress, cancelling: tuple[float, float], stride: float, samples: int
) -> Iterator[Evidence]:
    """Weights on a random walk, where the loss has no bound that is known: returns, rewards, losses by hand."""
    cosines = history.series("cosine")[1].astype(np.float64)
    _, updates, _ = weight_updates(history)
    if len(cosines) < samples or len(updates) < samples:
        return
    mean, error = float(cosines.mean()), float(cosines.std() / math.sqrt(len(cosines)))
    step = float(np.sqrt(np.mean(np.square(updates, dtype=np.float64))))
    if not (cancelling[0] < mean and mean + error < cancelling[1] and step > stride):
        return
    walk = step * math.sqrt(run.steps)
    rates = highest_rates(history)
    batch = history.facts.batch
    yield Evidence(
        f"Successive gradients have nothing in common (cosine {mean:+.3f} ± {error:.3f}) and the loss is "
        f"{run.recent:.3g} after {run.steps} steps, {run.start:.3g} at the start: steps of {step:.1%} of the weights "
        f"cancel, while the weights wander, by {walk:.1g} times their norm so far.",
        readings=(
            Reading("cosine of successive gradients", mean, cancelling[1], steps=(1, run.steps)),
            Reading("update over weight, rms of the steps", step, stride, steps=(1, run.steps)),
        ),
        confidence=0.7,
        remedies=(
            _baseline(),
            _larger_batch(batch, 16),
            scale_learning_rate(0.1, float(rates[-1]) if len(rates) else None),
        ),
    )


def _larger_batch(batch: int, factor: float) -> Remedy:
    size = max(int(batch * factor), 2)
    return Remedy(
        action=f"Take {size} samples a batch, {factor:.0f} times as many, or accumulate the gradients of {factor:.0f} "
        "batches",
        code=f"loader = torch.utils.data.DataLoader(dataset, batch_size={size}, shuffle=True)\n"
        f"# or: (loss / {factor:.0f}).backward() {factor:.0f} times before each optimizer.step()",
        source="McCandlish et al. 2018, An Empirical Model of Large-Batch Training, section 2.2",
        effect=f"the noise's variance falls {factor:.0f} times",
    )


def _baseline() -> Remedy:
    return Remedy(
        action="If the loss weighs log-probabilities with rewards, subtract their mean: a baseline",
        code="advantage = (reward - reward.mean()) / (reward.std() + 1e-8)\nloss = -(log_prob * advantage).mean()",
        source="Williams 1992; Greensmith et al. 2004, Variance Reduction Techniques for Gradient Estimates",
        effect="what all actions have in common no longer drowns the difference between them",
    )


_NOISE = [0.5 * ((7 * i) % 11 - 5) / 5 for i in range(200)]
_LEVEL = [max(2.3 * 0.9**i, 1.5) + n for i, n in enumerate(_NOISE)]


def _history(
    loss: list[float], gain: float, batch: int = 2, cosine: float = 0.0, constant: float | None = 2.3
) -> History:
    count = len(loss)
    facts = Facts(
        parameters=(Parameter("fc.weight", "fc", (64, 64), "weight", group=0),),
        groups=(Group("SGD", 0, 0.1),),
        loss=Loss("cross-entropy"),
        batch=batch,
    )
    history = History.of(
        facts,
        loss=loss,
        step_gain=[gain] * count,
        cosine=[cosine + 0.1 * (-1) ** i for i in range(count)],
        update_ratio={"fc.weight": [0.05] * count},
        learning_rate={"0": [0.1] * count},
    )
    if constant is not None:
        history.record_rows(range(1, count + 1), "constant_loss", [[constant]] * count)
    return history


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(_LEVEL, 1.6),
        _history([16 + n for n in _NOISE], 1.0, batch=1, constant=None),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([2.3 * 0.97**i + n / 10 for i, n in enumerate(_NOISE)], 0.1),  # healthy
        _history(_LEVEL, 0.1),  # the noise is that of the data
        _history(_LEVEL, 1.6, batch=64),  # not for its batch
        _history(_LEVEL[:50], 1.6),  # too early
        _history([16 + n for n in _NOISE], 1.0, batch=1, constant=None, cosine=0.2),  # gradients agree
    )
