"""Nothing more is gained at this learning rate."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.facts import Facts, Group, Loss
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.gains import highest_rates, plateau
from netdoctor.history import History
from netdoctor.progress import UNTOLD, progress
from netdoctor.remedies import reduce_on_plateau, scale_learning_rate, warm_up_and_decay
from netdoctor.rules.base import rule


@rule(Severity.NOTE, explains=())
def loss_plateau(
    history: History,
    *,
    tails: tuple[float, ...] = (0.75, 0.5, 0.33),  # shares of the run, from the end, that may be the plateau
    shortest: int = 100,  # losses in the plateau: of 60, several healthy runs that fell on looked flat
    floor: float = 0.1,  # of the reference loss: below, the run has converged and there is little to gain
    agreeing: float = 0.25,  # cosine of successive gradients: above, they still agree and noise is not the limit
    held: float = 0.1,  # of the loss, that the steps keep up: less is not worth a change
    decayed: float = 0.2,  # of the largest learning rate: below, it was decayed already
    factor: float = 0.1,  # on the learning rate (He et al. 2016, section 3.4)
) -> Iterator[Evidence | Skipped]:
    """The training loss no longer falls at this learning rate, and the noise of the batches is what holds it up.

    ## What it looks at
    The loss of each step over the last part of the run: block means without trend. How far the steps themselves hold
    it up, a quarter of what they promise to first order (gradient times update); the cosine of successive gradients,
    near zero where each step undoes what the last one gained; the learning rate, constant over the plateau.

    ## Why it matters
    With noisy gradients the loss levels off above its minimum, by an amount proportional to the learning rate; lowering
    the rate lets it fall again, at the price of speed, which a plateau has no use for.

    ## When it is wrong
    Slow progress that drowns in the noise looks level: decay then costs time. Hence a note.

    ## References
    He et al. 2016, section 3.4. Bottou, Curtis and Nocedal 2018, Optimization Methods for Large-Scale Machine Learning,
    theorem 4.6.
    """
    losses = history.series("loss")[1]
    run = progress(history)
    if run is None or len(losses) < shortest / tails[0] or run.recent <= 0:
        yield Skipped(UNTOLD if run is None else f"fewer than {shortest} losses on a plateau")
        return
    if not run.learned or run.falling or abs(run.recent) < floor * abs(run.reference):
        return
    level = plateau(history, tails, shortest, held * floor)
    rates = highest_rates(history)
    if level is None or (len(rates) and not rates[-1] > decayed * rates.max()):
        return
    if level.cosine > agreeing or level.excess < held * level.level:
        return
    rate = level.rate or None
    yield Evidence(
        f"The training loss has been {level.level:.4g} ± {level.noise:.2g} since step {level.since}, without trend "
        f"over {level.until - level.since} steps at a constant learning rate{f' of {rate:.3g}' if rate else ''}, which "
        f"by itself holds it up by about {level.excess:.2g}.",
        readings=(
            Reading("training loss", level.level, None, "loss", steps=(level.since, level.until)),
            Reading(
                "loss that the steps keep up", level.excess, held * level.level, "loss", (level.since, level.until)
            ),
            Reading("cosine of successive gradients", level.cosine, agreeing, steps=(level.since, level.until)),
        ),
        confidence=0.7,
        remedies=(scale_learning_rate(factor, rate), reduce_on_plateau(factor), warm_up_and_decay(0, run.steps)),
    )


def _history(loss: list[float], rate: list[float], gain: float = 0.6) -> History:
    return History.of(
        Facts(groups=(Group("SGD", 0, rate[0]),), loss=Loss("cross-entropy")),
        loss=loss,
        constant_loss=[2.3] * len(loss),
        cosine=[0.0] * len(loss),
        step_gain=[gain] * len(loss),
        learning_rate={"0": rate},
    )


_NOISE = [0.1 * ((7 * i) % 11 - 5) / 5 for i in range(400)]
_FLAT = [max(2.3 * 0.98**i, 1.0) + n for i, n in enumerate(_NOISE)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(_FLAT, [0.1] * 400),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([2.3 * 0.995**i + n / 5 for i, n in enumerate(_NOISE)], [0.1] * 400),  # healthy
        _history([max(2.3 * 0.97**i, 0.01) for i in range(400)], [0.1] * 400),  # converged
        _history(_FLAT, [0.1] * 150 + [0.01] * 250),  # decayed already
        _history(_FLAT, [0.1] * 400, 0.1),  # the noise is that of the data
        _history(_FLAT[:100], [0.1] * 100),  # too early
    )
