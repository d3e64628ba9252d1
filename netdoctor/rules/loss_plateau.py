"""Nothing more is gained at this learning rate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.facts import Facts, Group, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import UNTOLD, progress
from netdoctor.remedies import reduce_on_plateau, scale_learning_rate
from netdoctor.rules.base import rule
from netdoctor.trends import is_flat, noise


@rule(Severity.NOTE, explains=())
def loss_plateau(
    history: History,
    *,
    tails: tuple[float, ...] = (0.75, 0.5, 0.33),  # shares of the run, from the end, that may be the plateau
    shortest: int = 200,  # losses in the plateau: of 100, several healthy runs that fell on looked flat
    floor: float = 0.1,  # of the reference loss: below, the run has converged and there is little to gain
    agreeing: float = 0.25,  # cosine of successive gradients: above, they still agree and noise is not the limit
    noisy: float = 0.01,  # of the loss: less noise from step to step than this is no limit either
    decayed: float = 0.2,  # of the largest learning rate: below, it was decayed already
    factor: float = 0.1,  # on the learning rate (He et al. 2016, section 3.4)
) -> Iterator[Evidence | Skipped]:
    """The training loss no longer falls at this learning rate, and the noise of the batches is what holds it up.

    ## What it looks at
    The loss of each step over the last part of the run: block means without trend. The cosine of successive gradients,
    near zero where each step undoes what the last one gained; the learning rate, constant over the plateau.

    ## Why it matters
    With noisy gradients the loss levels off above its minimum, by an amount proportional to the learning rate; lowering
    the rate lets it fall again, at the price of speed, which a plateau has no use for.

    ## When it is wrong
    The plateau may be the noise of the data itself: nothing is left to gain, and decay does no harm. Hence a note.

    ## References
    He et al. 2016, section 3.4. Bottou, Curtis and Nocedal 2018, Optimization Methods for Large-Scale Machine Learning,
    theorem 4.6.
    """
    steps, losses = history.series("loss")
    run = progress(history)
    if run is None or len(losses) < 2 * shortest or run.recent <= 0:
        yield Skipped(UNTOLD if run is None else f"fewer than {2 * shortest} losses")
        return
    if not run.learned or run.falling or abs(run.recent) < floor * abs(run.reference):
        return
    table = history.table("learning_rate")
    rates = np.nan_to_num(table.values).max(1, initial=0.0)
    for share in tails:
        tail = losses[-int(share * len(losses)) :]
        since = int(steps[-len(tail)])
        constant = rates[table.steps >= since] if len(rates) else rates
        if len(tail) < shortest or (len(constant) > 1 and np.ptp(constant) > 0.05 * constant.max()):
            continue
        if is_flat(tail):
            break
    else:
        return
    if len(rates) and (rates[-1] == 0 or rates[-1] < decayed * rates.max()):
        return
    when, cosines = history.series("cosine")
    cosines = cosines[when >= since] if (when >= since).sum() >= 3 else cosines[-10:]
    cosine = float(np.mean(cosines)) if len(cosines) else 0.0
    level, spread = float(np.mean(tail)), noise(tail)
    if cosine > agreeing or spread < noisy * abs(level):
        return
    rate = float(rates[-1]) if len(rates) else None
    yield Evidence(
        f"The training loss has been {level:.4g} ± {spread:.2g} since step {since}, without trend over "
        f"{run.steps - since} steps at a constant learning rate{f' of {rate:.3g}' if rate else ''}.",
        readings=(
            Reading("training loss", level, None, "loss", steps=(since, run.steps)),
            Reading("noise of the loss from step to step", spread, noisy * abs(level), "loss", (since, run.steps)),
            Reading("cosine of successive gradients", cosine, agreeing, steps=(since, run.steps)),
        ),
        confidence=0.7,
        remedies=(scale_learning_rate(factor, rate), reduce_on_plateau(factor), _cosine(run.steps)),
    )


def _cosine(steps: int) -> Remedy:
    return Remedy(
        action="Or plan it: decay the rate over the whole run along a cosine",
        code=f"scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={steps})\n"
        "# T_max: all steps of the run; and scheduler.step() after each optimizer.step()",
        source="Loshchilov & Hutter 2017, SGDR",
    )


def _history(loss: list[float], rate: list[float]) -> History:
    return History.of(
        Facts(groups=(Group("SGD", 0, rate[0]),), loss=Loss("cross-entropy")),
        loss=loss,
        constant_loss=[2.3] * len(loss),
        cosine=[0.0] * len(loss),
        learning_rate={"0": rate},
    )


_NOISE = [0.1 * ((7 * i) % 11 - 5) / 5 for i in range(400)]
_FLAT = [max(2.3 * 0.98**i, 1.0) + n for i, n in enumerate(_NOISE)]
FIRES: tuple[History, ...] = (_history(_FLAT, [0.1] * 400),)
QUIET: tuple[History, ...] = (
    _history([2.3 * 0.995**i + n / 5 for i, n in enumerate(_NOISE)], [0.1] * 400),  # healthy
    _history([max(2.3 * 0.97**i, 0.01) for i in range(400)], [0.1] * 400),  # converged
    _history(_FLAT, [0.1] * 150 + [0.01] * 250),  # decayed already
    _history(_FLAT[:150], [0.1] * 150),  # too early
)
