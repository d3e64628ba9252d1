"""The learning rate is so small that the weights stay where they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.facts import Facts, Group, Loss, Parameter
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import UNTOLD, progress, weight_updates
from netdoctor.remedies import find_learning_rate, scale_learning_rate
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("underfitting", "loss-plateau", "not-learning"))
def learning_rate_too_small(
    history: History,
    *,
    ratio: float = 1e-4,  # ‖Δw‖/‖w‖, a tenth of CS231n's; least of 210 healthy runs before they learned: 6e-4
    target: float = 3e-3,  # ‖Δw‖/‖w‖ to aim at: the median of 22 healthy programs is 2e-3, the rule of thumb 1e-3
    moved: float = 1e-3,  # ‖Δw‖/‖w‖: a weight that moves so much, now or earlier, shows that the rate is not the cause
    most: float = 1e4,  # factor at most in one go: beyond it the estimate is an extrapolation
    fall: float = 0.1,  # share of its first value that the loss may have lost: a run that falls more gets somewhere
    opposed: float = -0.1,  # cosine of successive gradients: below, they cancel, and small steps are not what is wrong
    patience: int = 30,  # steps, at a learning rate that does not rise: longer than this, a warm-up shows its slope
    samples: int = 8,  # readings of the updates at least
) -> Iterator[Evidence | Skipped]:
    """Updates are orders below the weights, gradients keep agreeing, and the loss hardly moves.

    ## What it looks at
    ‖Δw‖/‖w‖ of each step, the median over weights (no biases, norms, embeddings, zero-initialised or frozen ones); the
    cosine of successive gradients, which stays as it is where nothing changes under the weights' feet; the training
    loss against its start and against the best constant prediction.

    ## Why it matters
    Progress is proportional to the learning rate here: ten times the rate does the same in a tenth of the steps.

    ## When it is wrong
    A schedule that starts with a long constant, tiny rate. Fine-tuning, decayed rates and converged runs are not
    flagged: their loss is below the constant prediction. Where only some layers stand still,
    gradients are the cause, not the rate: nothing is said.

    ## References
    CS231n, Neural Networks 3, "Ratio of weights:updates". Smith 2017, Cyclical Learning Rates (the range test).
    """
    run = progress(history)
    steps, updates, largest = weight_updates(history)
    if run is None or len(updates) < samples or history.step < patience:
        yield Skipped(UNTOLD if run is None else f"fewer than {patience} steps")
        return
    update = float(np.median(updates[-samples:]))
    rates = np.nan_to_num(history.table("learning_rate").values).max(1, initial=0.0)
    if update == 0 or (len(rates) and rates[-1] <= 0):
        yield Skipped("the learning rate is 0, or the weights do not change")
        return
    if len(rates) and rates[-1] > 1.01 * rates[-samples:][0]:
        yield Skipped("the learning rate still rises")
        return
    decayed = len(rates) > 0 and rates[-1] < 0.5 * rates.max()
    cosine = float(np.mean(history.series("cosine")[1][-50:])) if len(history.series("cosine")[1]) else 0.0
    gone = (run.start - run.recent) / abs(run.start) if run.start else 0.0
    stuck = float(np.median(largest[-samples:])) < moved and float(updates.max()) < moved
    if not stuck or update >= ratio or run.learned or gone >= fall or cosine < opposed or decayed:
        return
    factor = _rounded(min(target / update, most))
    first, last = int(steps[-min(samples, len(steps))]), int(steps[-1])
    yield Evidence(
        f"Updates are {update:.1g} of the weights, {target / update:.2g}× below the {target:g} that trains; after "
        f"{run.steps} steps the loss went from {run.start:.4g} to {run.recent:.4g} and successive gradients still "
        f"point the same way (cosine {cosine:+.2f})."
        if cosine > 0.1
        else f"Updates are {update:.1g} of the weights, {target / update:.2g}× below the {target:g} that trains; after "
        f"{run.steps} steps the loss went from {run.start:.4g} to {run.recent:.4g}.",
        readings=(
            Reading("update over weight, median of the weights", update, ratio, steps=(first, last)),
            Reading("cosine of successive gradients", cosine, opposed, steps=(int(steps[0]), last)),
            Reading("share of the loss gone", gone, fall, steps=(1, run.steps)),
        ),
        confidence=0.95 if cosine > 0.1 and update < ratio / 5 else 0.8,
        remedies=(scale_learning_rate(factor, float(rates[-1]) if len(rates) else None), find_learning_rate()),
    )


def _rounded(factor: float) -> float:
    """The factor, down to the next of 1, 3, 10, 30 and so on."""
    power = 10.0 ** np.floor(np.log10(factor))
    return float(3 * power if factor >= 3 * power else power)


def _history(
    update: float, loss: list[float], rate: list[float], cosine: float = 0.33, constant: float = 2.3
) -> History:
    count = len(loss)
    return History.of(
        Facts(
            parameters=(Parameter("fc.weight", "fc", (64, 64), "weight", group=0),),
            groups=(Group("SGD", 0, rate[0]),),
            loss=Loss("cross-entropy"),
        ),
        loss=loss,
        constant_loss=[constant] * count,
        update_ratio={"fc.weight": [update * r / rate[-1] for r in rate]},
        cosine=[cosine] * count,
        learning_rate={"0": rate},
    )


_NOISE = [0.02 * (-1) ** (i // 2) for i in range(60)]
FIRES: tuple[History, ...] = (
    _history(7e-7, [2.32 + n for n in _NOISE], [1e-5] * 60),
    _history(6e-5, [2.32 - 0.0002 * i + n for i, n in enumerate(_NOISE)], [1e-3] * 60, cosine=0.05),
)
QUIET: tuple[History, ...] = (
    _history(9e-3, [2.32 * 0.96**i + n for i, n in enumerate(_NOISE)], [0.1] * 60),  # healthy
    _history(2e-5, [0.06 + 0.1 * n for n in _NOISE], [1e-5] * 60, cosine=0.0),  # fine-tuning, converged
    _history(2e-5, [2.32 + n for n in _NOISE], [1e-6 * (i + 1) for i in range(60)]),  # warm-up
    _history(7e-7, [2.32] * 10, [1e-5] * 10),  # too early
)
