"""The model does no better than a constant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.facts import Facts, Layer, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import highest_rates
from netdoctor.history import History
from netdoctor.progress import LEARNED, UNTOLD, progress
from netdoctor.remedies import find_learning_rate
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("class-collapse",))
def not_learning(
    history: History,
    *,
    patience: int = 150,  # steps: the slowest of 180 healthy runs without such layers took 100 to 125
    patience_sure: int = 80,  # steps, where a gain can be ruled out: it could in none of 170 healthy runs after step 50
    ruled_out: float = 0.02,  # gain over the constant, of its loss, that the mean loss lies 2 standard errors below
    patience_sequence: int = 1000,  # steps, recurrent or attention layers: plateaus of 100, 300 and 750 steps broke
    patience_start: int = 500,  # steps, best constant prediction unknown: the loss is held against its own start
    rising: float = 1.5,  # growth of the learning rate over the last half of the run: a warm-up is not judged
) -> Iterator[Evidence | Skipped]:
    """After many steps the loss is no better than that of the best constant prediction, and does not fall.

    ## What it looks at
    The mean training loss of the last tenth of the run, against the loss that the best constant prediction would have
    on the targets seen (ln K for K balanced classes, the variance for a mean squared error); where that is unknown,
    against the start. A gain of 10 % counts as learning, as does one of 2 % and 4 standard errors, or a loss that falls
    significantly.

    ## Why it matters
    The model has found out how frequent the targets are and nothing of the inputs. More epochs seldom help.

    ## When it is wrong
    Tasks with a long plateau before the first gain (parity, algorithmic sequences): models with recurrent or attention
    layers get a note before step 1000. Targets that no input predicts. Losses that are no measure of learning: a GAN's
    and a policy gradient's are not judged; other surrogates, and targets that move, get a note at most.

    ## References
    Karpathy 2019, A Recipe for Training Neural Networks ("input-independent baseline", "overfit one batch"). In 22
    healthy and 64 faulty programs, "no better than a constant" flagged 0 and 45.
    """
    run = progress(history)
    if run is None or run.steps < patience_sure:
        yield Skipped(UNTOLD if run is None else f"fewer than {patience_sure} steps")
        return
    rates = highest_rates(history)
    if len(rates):
        half = int(np.searchsorted(history.table("learning_rate").steps, run.steps // 2))
        if rates[-1] > rising * rates[min(half, len(rates) - 1)]:
            yield Skipped("the learning rate still rises")
            return
    if not run.stalled:
        return
    known = run.constant is not None
    sequence = any(layer.kind in ("recurrent", "attention") for layer in history.facts.layers)
    noise = run.error / (abs(run.reference) or 1.0)
    surely = known and not sequence and run.gain + 2 * noise < ruled_out
    if not surely and run.steps < patience:
        yield Skipped(f"fewer than {patience} steps")
        return
    if known and run.gain + noise > LEARNED:  # it may have gained that much behind the noise
        yield Skipped("the loss is too noisy to tell")
        return
    if not known and run.steps < patience_start:
        yield Skipped(f"fewer than {patience_start} steps of a loss written by hand")
        return
    sure = known and (run.steps >= patience_sequence or not sequence)
    baseline = "the best constant prediction has" if known else "it started with"
    yield Evidence(
        f"After {run.steps} steps the loss is {run.recent:.4g} and does not fall; {baseline} {run.reference:.4g}.",
        readings=(
            Reading("training loss", run.recent, run.reference, "loss", steps=(1, run.steps)),
            Reading("standard error of the training loss", run.error, None, "loss", steps=(1, run.steps)),
        ),
        confidence=0.9 if sure else 0.6,
        severity=None if sure else Severity.NOTE,
        remedies=(_overfit_one_batch(history.facts), _look_at_data(), find_learning_rate()),
    )


def _overfit_one_batch(facts: Facts) -> Remedy:
    return Remedy(
        action="Train on one batch alone: if its loss does not go to 0, the program is wrong, not the data",
        code="batch = next(iter(loader))\n"
        "for step in range(300):\n"
        "    loss = loss_fn(model(batch[0]), batch[1])\n"
        "    optimizer.zero_grad()\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "print(loss.item())  # near 0: model, loss and optimizer work; look at the data",
        source="Karpathy 2019, A Recipe for Training Neural Networks, step 2",
        effect="tells a fault of the program (loss, zero_grad, dead layers, learning rate) from one of the data",
    )


def _look_at_data() -> Remedy:
    return Remedy(
        action="Look at inputs and labels as they enter the model: shuffled apart, constant, wrongly scaled?",
        code="x, y = next(iter(loader))\n"
        "print(x.shape, x.float().mean(0).std(), x.float().std(0).mean())  # std over samples near 0: constant inputs\n"
        "print(y.shape, y.unique(return_counts=True))  # and a few pairs by eye",
        source="Karpathy 2019, A Recipe for Training Neural Networks, step 1",
        effect="labels that do not belong to their inputs cannot be learned",
    )


_NOISE = [0.05 * ((7 * i) % 11 - 5) / 5 for i in range(200)]


def _history(loss: list[float], constant: float | None = 2.3, kind: str = "linear") -> History:
    facts = Facts(layers=(Layer("fc", kind),), loss=Loss("cross-entropy"))
    if constant is None:
        return History.of(facts, loss=loss)
    return History.of(facts, loss=loss, constant_loss=[constant] * len(loss))


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([2.31 + n for n in _NOISE]),
        _history([2.31 + n for n in _NOISE], kind="attention"),  # as a note
        _history([1.5 + n for n in _NOISE * 3], constant=None),  # as a note
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([2.3 * 0.98**i + n for i, n in enumerate(_NOISE)]),  # healthy
        _history([0.02 + n / 10 for n in _NOISE]),  # converged
        _history([2.31 + n for n in _NOISE[:70]]),  # too early
        _history([2.31 + n for n in _NOISE], constant=None),  # too early
    )
