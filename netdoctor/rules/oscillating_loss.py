"""A loss that bounces between walls: each step undoes what the last one gained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.facts import Facts, Group, Loss, Parameter
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import PROMISE, bounces, highest_rates, lasting_overshoot, momentum, overshoot, reference
from netdoctor.history import History
from netdoctor.progress import UNTOLD, progress
from netdoctor.remedies import scale_learning_rate, set_momentum, warm_up_and_decay
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("loss-plateau", "not-learning"))
def oscillating_loss(
    history: History,
    *,
    excess: float = 0.1,  # of what there is to lose: so much the steps hold the loss up; 210 healthy runs: 0.07
    opposed: float = -0.5,  # cosine of successive gradients: steps as long as the valley is wide (−1 at the limit)
    large: float = 0.5,  # of what a stable step promises at most: curvature times rate is 1; healthy runs stay below
    samples: int = 8,  # readings in a row that oppose each other
    uphill: float = 0.25,  # of what steps go down the gradient, they go up: a swing that loses little; 0.8: 0.13
    swinging: float = 0.05,  # of what there is to lose, by one step: the swing is still large at the end
    usual: float = 0.9,  # momentum: the common default
) -> Iterator[Evidence | Skipped]:
    """The loss swings without trend, and steps that are too long for the valley keep it up.

    ## What it looks at
    Three signs. Successive gradients that point against each other while each step promises about as much as the loss
    has left: it lands on the opposite wall. Steps that momentum carries up the gradient nearly as often as down. Or a
    level stretch of most of the run on which the steps, by a quarter of what they promise, hold up the loss by more
    than a tenth of what there is to lose.

    ## Why it matters
    The loss cannot fall below what the steps keep up, however long the training goes on; shorter ones lower it at once.

    ## When it is wrong
    Cyclic learning rates. Full-batch training at the edge of stability swings too, along few directions that matter
    little: what its steps promise is small against the loss.

    ## References
    Goodfellow et al. 2016, Deep Learning, section 8.2.2. Bottou, Curtis and Nocedal 2018, theorem 4.6. Cohen et al.
    2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability.
    """
    run = progress(history)
    if run is None:
        yield Skipped(UNTOLD)
        return
    rates = highest_rates(history)
    rate = float(rates[-1]) if len(rates) else None
    steps, cosines = history.series("cosine")
    ratios = overshoot(history)[1]
    if len(cosines) >= samples and len(ratios) >= samples and cosines[-samples:].max() < opposed:
        ratio = float(lasting_overshoot(history)[-1])
        if ratio > large:
            cosine = float(cosines[-samples:].mean())
            yield Evidence(
                f"The loss swings between two walls at {run.recent:.3g}: successive gradients point against each other "
                f"(cosine {cosine:+.2f}), and each step promises {4 * ratio:.2g} times the loss.",
                readings=(
                    Reading(
                        "cosine of successive gradients", cosine, opposed, "", (int(steps[-samples]), int(steps[-1]))
                    ),
                    Reading("promise of a step over that of the largest stable one", ratio, large),
                ),
                confidence=0.9,
                remedies=(scale_learning_rate(float(f"{0.25 / ratio:.1g}"), rate), _momentum()),
            )
            return
    if len(ratios) >= 2 * samples and len(cosines):
        risen = float(np.maximum(-ratios, 0).sum() / max(np.maximum(ratios, 0).sum(), 1e-30))
        still = PROMISE * float(np.median(np.abs(ratios[-len(ratios) // 3 :])))
        if risen > uphill and still > swinging and np.nanmedian(cosines) > -opposed and momentum(history.facts) > usual:
            yield Evidence(
                f"The loss swings slowly around {run.recent:.3g}: steps went up the gradient for {risen:.0%} of what "
                f"they went down it, carried on by a momentum of {momentum(history.facts):g}.",
                readings=(
                    Reading("gone up over gone down", risen, uphill, steps=(int(steps[0]), int(steps[-1]))),
                    Reading("momentum", momentum(history.facts), usual),
                ),
                confidence=0.85,
                remedies=(set_momentum(usual), scale_learning_rate(0.1, rate)),
            )
            return
    level = bounces(history, excess)
    if level is None:
        return
    share = level.excess / reference(history)
    factor = float(f"{min(max(excess / 4 / share, 0.01), 0.3):.1g}")
    yield Evidence(
        f"The loss has swung around {level.level:.3g} by ± {level.noise:.2g} since step {level.since}, without trend: "
        f"steps of this length hold it up by about {min(level.excess, level.level):.2g} at a learning rate of "
        f"{level.rate:.3g}.",
        readings=(
            Reading(
                "loss that the steps keep up, of what there is to lose", share, excess, steps=(level.since, level.until)
            ),
            Reading("cosine of successive gradients", level.cosine, None, steps=(level.since, level.until)),
        ),
        confidence=0.8,
        remedies=(scale_learning_rate(factor, rate), warm_up_and_decay(0, level.until)),
    )


def _momentum() -> Remedy:
    return Remedy(
        action="Or use momentum, which averages out what successive gradients have against each other",
        code="optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * rate, momentum=0.9)  # rate: that of now",
        source="Goh 2017, Why Momentum Really Works",
        effect="steps along the valley add up, those across it cancel",
    )


def _history(loss: list[float], gain: float, cosine: float, constant: float = 2.3) -> History:
    count = len(loss)
    return History.of(
        Facts(
            parameters=(Parameter("fc.weight", "fc", (64, 64), "weight", group=0),),
            groups=(Group("SGD", 0, 0.1),),
            loss=Loss("cross-entropy"),
            batch=64,
        ),
        loss=loss,
        constant_loss=[constant] * count,
        step_gain=[gain] * count,
        cosine=[cosine] * count,
        learning_rate={"0": [0.1] * count},
    )


_NOISE = [0.2 * ((7 * i) % 11 - 5) / 5 for i in range(200)]
_LEVEL = [max(2.3 * 0.9**i, 0.5) + n for i, n in enumerate(_NOISE)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([19.0 + 0.1 * (-1) ** i for i in range(20)], 72.0, -0.95),
        _history(_LEVEL, 1.6, 0.05),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([2.3 * 0.97**i + n / 10 for i, n in enumerate(_NOISE)], 0.1, 0.1),  # healthy
        _history([2.3 * 0.9**i + 0.02 * (-1) ** i for i in range(40)], 0.1, -0.9),  # edge of stability
        _history(_LEVEL, 0.1, 0.05),  # the noise is that of the data
        _history(_LEVEL[:50], 1.6, 0.05),  # too early
        _history([0.02 + n / 20 for n in _NOISE], 0.2, 0.0),  # converged
    )
