"""All predictions are of one class though the targets are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.ends import last_layers
from netdoctor.facts import Facts, Layer, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import UNTOLD, progress
from netdoctor.rules.base import rule


@rule(Severity.NOTE, explains=())
def class_collapse(
    history: History,
    *,
    answers: float = 0.98,  # share of one class in the predictions
    frequent: float = 0.6,  # share of the most frequent class in the targets: above, it is the imbalance
    readings: int = 8,  # samples in which it must be so
    patience: int = 100,  # steps: up to here a healthy run may still answer with one class
) -> Iterator[Evidence | Skipped]:
    """The model answers with one class whatever it is given, and does not get away from it.

    ## What it looks at
    The share of the class that the predictions favour in the last samples, against the share of the most frequent class
    in the targets, where the loss no longer falls.

    ## Why it matters
    The outputs hardly depend on the inputs any more: units died or saturated, the last bias ran away, or nothing can be
    learned from these inputs.

    ## When it is wrong
    It is a symptom, and listed under its cause where that is known. Targets that are mostly of one class are
    `class-imbalance`.

    ## References
    Amazon SageMaker Debugger, ClassImbalance (misprediction) and Confusion.
    """
    predicted, shares = history.series("largest_predicted_share")[1], history.series("largest_class_share")[1]
    state = progress(history)
    if state is None or len(predicted) < readings or not len(shares) or history.step < patience:
        yield Skipped(UNTOLD if state is None else f"fewer than {patience} steps or {readings} samples of predictions")
        return
    favoured, share = float(np.min(predicted[-readings:])), float(shares[-1])
    if favoured < answers or share > frequent or not state.stalled:
        return
    yield Evidence(
        message=f"At least {favoured:.0%} of the predictions are of one class in each of {readings} samples, though "
        f"the most frequent class has {share:.0%} of the targets; the loss, {state.recent:.4g}, does not fall",
        layers=last_layers(history.facts),
        readings=(
            Reading("share of one class in the predictions", favoured, answers),
            Reading("share of the most frequent class", share, frequent),
        ),
        confidence=0.8,
        remedies=(_REMEDY,),
    )


_REMEDY = Remedy(
    action="See whether the logits depend on the input at all, and start again with a lower learning rate",
    code="with torch.no_grad():\n    logits = model(x)\n"
    "print(logits.std(0))  # over samples: 0 where nothing depends on x\n"
    "print(logits.mean(0))  # one class far above the others: its bias ran away",
    source="Karpathy 2019, A Recipe for Training Neural Networks, step 2",
    effect="tells a dead network from a runaway bias",
)


def _history(favoured: float, share: float, loss: list[float]) -> History:
    facts = Facts(layers=(Layer("fc", "linear", called=True),), loss=Loss("cross-entropy", layer="fc"))
    count = len(loss)
    return History.of(
        facts,
        loss=loss,
        constant_loss=[2.3] * count,
        largest_class_share=[share] * count,
        largest_predicted_share=[favoured] * count,
    )


_NOISE = [0.05 * ((7 * i) % 11 - 5) / 5 for i in range(200)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(1.0, 0.12, [2.31 + n for n in _NOISE]),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(0.2, 0.12, [2.3 * 0.98**i + n for i, n in enumerate(_NOISE)]),  # healthy
        _history(1.0, 0.97, [2.31 + n for n in _NOISE]),  # imbalance
        _history(1.0, 0.12, [2.31 + n for n in _NOISE[:60]]),  # too early
        _history(0.2, 0.12, [0.02 + n / 10 for n in _NOISE]),  # converged
    )
