"""The model learns the training set by heart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from netdoctor import validation
from netdoctor.facts import Facts, Group, Layer, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import UNTOLD, Progress, progress
from netdoctor.remedies import more_dropout, set_weight_decay, stop_at
from netdoctor.rules.base import rule
from netdoctor.trends import noise


@rule(Severity.WARNING, explains=())
def overfitting(
    history: History,
    *,
    patience: int = 3,  # validation passes after the best one, each of which must be worse
    worse: float = 0.1,  # of the gain over a constant prediction: healthy up to 0.07, overfitted from 0.15
    sigmas: float = 4.0,  # standard deviations of the noise from pass to pass
    gap: float = 1 / 3,  # of the gain of training, that validation lacks; healthy runs lack 0.1 at most
    heart: float = 0.05,  # of the constant prediction's loss: below, the training set is known by heart
    wide: float = 0.5,  # of the same, that it lacks before that and does not catch up: a healthy run 0.4, and falling
) -> Iterator[Evidence | Skipped]:
    """Validation loss rises, or stays where it is, while the training set is learned by heart.

    ## What it looks at
    The mean loss of each validation pass (losses computed without gradients, or ``monitor.observe(val_loss=…)``)
    against the best pass: the last three must all be worse by 4 standard deviations of the noise from pass to pass and
    by a tenth of what the best pass gained over a constant prediction. The training loss must be lower than at the best
    pass, and lower than the validation loss. Or the training loss is almost nothing, validation lacks a third of what
    training gained, and has not improved over the last half of the passes. Or, before that, it lacks half of it, and
    hardly improved meanwhile. A training loss that a constant prediction beats is none of it.

    ## Why it matters
    From the best step on the model gets worse on data it has not seen; what it still learns is the training set.

    ## When it is wrong
    The loss of a classifier can rise while its accuracy still improves: it becomes overconfident. A validation set from
    another distribution. Dropout and augmentation raise the training loss and hide overfitting; they never feign it.

    ## References
    Prechelt 1998, Early Stopping, But When? Goodfellow et al. 2016, Deep Learning, chapter 7.
    """
    values, run = history.series("val_loss")[1], progress(history)
    if len(values) < patience + 1 or run is None:
        yield Skipped(UNTOLD if run is None else f"fewer than {patience + 1} validation losses")
        return
    evidence = _rising(history, run, patience, worse, sigmas) or _by_heart(history, run, patience, gap, heart, wide)
    if evidence is not None and (run.constant is None or run.recent < run.constant):
        yield _with_passes(history, evidence, run.steps)


def _with_passes(history: History, evidence: Evidence, steps: int) -> Evidence:
    """With how often each sample has been seen, where that is known."""
    one_pass = validation.pass_steps(history)
    if one_pass is None:
        return evidence
    seen = steps / one_pass
    return replace(
        evidence,
        message=f"{evidence.message[:-1]}; training has seen each sample about {seen:.0f} times.",
        readings=(*evidence.readings, Reading("passes over the training data", seen, None, "", (1, steps))),
    )


def _rising(history: History, run: Progress, patience: int, worse: float, sigmas: float) -> Evidence | None:
    """The validation loss rises while the training loss falls."""
    steps, values = history.series("val_loss")
    best = int(np.argmin(values))
    if len(values) - 1 - best < patience:
        return None
    low, last = float(values[best]), float(np.mean(values[-patience:]))
    gain = max(run.reference - low, 0.1 * abs(run.reference))
    bound = low + max(sigmas * noise(values), worse * gain)
    when, losses = history.series("loss")
    stretch = max(int(steps[-1] - steps[-2]), 1)
    then = losses[np.abs(when - steps[best]) <= stretch]
    now = losses[when > when[-1] - 2 * stretch]
    if not len(then) or not len(now) or float(values[-patience:].min()) <= bound:
        return None
    before, after = float(np.mean(then)), float(np.mean(now))
    if after >= before or after >= last:
        return None
    return Evidence(
        f"Validation loss rose from {low:.4g} at step {steps[best]} to {last:.4g} while training loss went from "
        f"{before:.4g} to {after:.4g}; the gap is {last - after:.3g}.",
        readings=(
            Reading("validation loss, last passes", last, bound, "loss", steps=(int(steps[-patience]), int(steps[-1]))),
            Reading("validation loss, best pass", low, None, "loss", steps=(int(steps[best]), int(steps[best]))),
            Reading("training loss", after, before, "loss", steps=(int(steps[best]), run.steps)),
        ),
        confidence=0.95 if last - low > 2 * (bound - low) else 0.8,
        remedies=(_stop(int(steps[best])), _weight_decay(history.facts), *more_dropout(history.facts), _augment()),
    )


def _by_heart(history: History, run: Progress, patience: int, gap: float, heart: float, wide: float) -> Evidence | None:
    """Training has nothing left to learn, or no more than what does not help, and validation has stopped far above."""
    steps, values = history.series("val_loss")
    own = history.series("val_constant_loss")[1]
    middle = len(values) // 2
    if run.constant is None or not len(own) or middle < patience:
        return None
    last = float(np.mean(values[-patience:]))
    lack = last / float(own[-1]) - run.recent / run.constant
    known = run.recent <= heart * run.constant
    better = float(values[:middle].min() - values[middle:].min()) / float(own[-1])
    bound = gap if known else wide
    if lack < bound or better > (0.02 if known else 0.1 * lack):
        return None
    best = int(np.argmin(values))
    since = f"without a gain since step {steps[best]}" if known else f"{last - run.recent:.3g} above"
    return Evidence(
        f"The training loss is {run.recent:.3g}, and validation stays at {last:.3g} ({own[-1]:.3g} for a constant "
        f"prediction), {since}: the training set is {'known' if known else 'learned'} by heart.",
        readings=(
            Reading("share of the gain that validation lacks", lack, bound, "", (int(steps[middle]), run.steps)),
            Reading("validation loss, last passes", last, None, "loss", (int(steps[-patience]), int(steps[-1]))),
            Reading("training loss", run.recent, heart * run.constant, "loss", (int(steps[middle]), run.steps)),
        ),
        confidence=0.8,
        remedies=(_augment(), _stop(int(steps[best])), *more_dropout(history.facts), _weight_decay(history.facts)),
    )


def _stop(step: int) -> Remedy:
    return Remedy(
        action=f"Stop at step {step}: keep the weights of the best validation pass, as monitor.keep_best(path) does",
        code='monitor.keep_best("best.pt")  # before training\n'
        'model.load_state_dict(torch.load("best.pt"))  # at its end',
        source="Prechelt 1998, Early Stopping, But When?",
        effect="the model of the best validation loss seen",
        treatment=stop_at(step),
        restart=True,
    )


def _weight_decay(facts: Facts) -> Remedy:
    """Ten times the present decay; else the usual first value, which depends on how the optimizer applies it."""
    now = max((group.weight_decay for group in facts.groups), default=0.0)
    decoupled = any("AdamW" in group.optimizer for group in facts.groups)
    value = min(10 * now, 1.0 if decoupled else 0.1) if now else (0.1 if decoupled else 1e-3)
    return replace(
        set_weight_decay(value, now),
        effect="smaller weights, a smoother function; begin the training anew with it",
        restart=True,
    )


def _augment() -> Remedy:
    return Remedy(
        action="Add data, or augment what is there (shifts, flips and crops of images, noise on features, mixup)",
        code="weight = torch.distributions.Beta(0.2, 0.2).sample()\n"
        "other = torch.randperm(len(x))\n"
        "mixed = weight * x + (1 - weight) * x[other]\n"
        "loss = weight * loss_fn(model(mixed), y) + (1 - weight) * loss_fn(model(mixed), y[other])",
        source="Zhang et al. 2018, mixup",
    )


def _history(loss: list[float], val: list[float]) -> History:
    facts = Facts(
        layers=(
            Layer("fc", "linear"),
            Layer("relu", "activation", "ReLU", "relu", inputs=("fc",)),
            Layer("out", "linear"),
        ),
        groups=(Group("Adam", 0, 1e-3),),
        loss=Loss("cross-entropy"),
    )
    history = History.of(facts, loss=loss, constant_loss=[2.3] * len(loss))
    every = len(loss) // len(val)
    for index, value in enumerate(val):
        history.record((index + 1) * every, "val_loss", [value])
        history.record((index + 1) * every, "val_constant_loss", [2.3])
    return history


_FALLING = [2.3 * 0.97**i for i in range(100)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(_FALLING, [1.6, 1.3, 1.2, 1.25, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9]),
        _history(_FALLING, [1.5, 2.4, 2.6, 2.7, 2.8]),
        _history([2.3 * 0.98**i for i in range(100)], [2.2, 2.2, 2.15, 2.15, 2.15, 2.2, 2.1, 2.15, 2.12, 2.14]),
        _history([2.3 * 0.9**i for i in range(100)], [1.9, 1.4, 1.15, 1.1, 1.1, 1.09, 1.1, 1.11, 1.12, 1.1]),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(_FALLING, [1.9, 1.4, 1.1, 0.8, 0.6, 0.5, 0.4, 0.35, 0.31, 0.3]),  # healthy
        _history(_FALLING, [0.3, 0.1, 0.05, 0.06, 0.07, 0.06, 0.08, 0.07, 0.08, 0.08]),  # converged: worse by little
        _history(_FALLING, [1.9, 1.2, 0.6, 1.1, 0.5, 1.2, 0.7, 1.0, 0.6, 1.1]),  # a small, noisy validation set
        _history([2.3 * 0.98**i for i in range(100)], [2.25, 2.2, 2.15, 2.1, 2.05, 2.0, 1.9, 1.7, 1.5, 1.3]),  # lags
        _history([2.3] * 20, [1.0, 1.2]),  # too early
    )
