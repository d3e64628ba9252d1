"""A loss that goes the wrong way for good: steps that climb, a loss turned round, or one that feeds itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import Facts, Group, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import lasting_overshoot, overshoot, reference
from netdoctor.history import History
from netdoctor.measured_remedies import bound_weights
from netdoctor.remedies import clip_gradients, from_the_start, scale_learning_rate
from netdoctor.rules.base import rule
from netdoctor.trends import block_means, is_rising

Floats = NDArray[np.float64]
CAUSED = (
    "loss-spike",
    "learning-rate-too-large",
    "exploding-gradient",
    "non-finite",
    "saturated-units",
    "dead-units",
    "covariate-shift",
    "oscillating-loss",
    "loss-plateau",
    "not-learning",
)


@rule(Severity.ERROR, explains=CAUSED)
def diverging_loss(
    history: History,
    *,
    climbing: float = 0.8,  # share of the steps that raise the loss to first order; momentum alone turns few round
    risen: float = 1.5,  # times what there is to lose: a loss above it got worse, in whatever way it is written
    grown: float = 10.0,  # times its start, its least and what there is to lose: a loss that goes on rising
    stable: float = 0.5,  # promise of the steps over that of stable ones: above, they are too long, another disease
    runaway: float = 4.0,  # times, from a quarter to half of the run and on to its end: faster than any straight line
    patience: int = 10,  # losses
    samples: int = 8,  # readings of what the steps promise
) -> Iterator[Evidence | Skipped]:
    """The loss rises for good though the steps are short, or what falls is the negative of a loss.

    ## What it looks at
    Whether the steps go down at all: gradient times update, measured around them. The sign with which the loss enters
    ``backward``, where torch's own functions compute it. Else the loss itself: ten times its start and still
    rising at the end, or negative and falling ever faster, while the steps are of a stable length.

    ## Why it matters
    The model gets worse with every step, and nothing brings it back.

    ## When it is wrong
    What is meant to rise: unlearning, or one part of a model that works against another with one optimizer. Losses
    against targets that are about to grow, as in reinforcement learning, for a while.

    ## References
    Goodfellow et al. 2016, Deep Learning, section 4.3. Sutton and Barto 2018, section 11.3 (the deadly triad).
    """
    table = history.table("loss")
    losses = table.values[:, 0].astype(np.float64) if table.columns else np.zeros(0)
    losses = losses[np.isfinite(losses)]
    if history.facts.several_losses or len(losses) < patience:
        yield Skipped("several losses" if history.facts.several_losses else f"fewer than {patience} losses")
        return
    span, least = (1, history.step), reference(history)
    recent = float(losses[-5:].mean())
    constants = history.series("constant_loss")[1]
    if len(constants) and constants[-1] < 0:
        if -recent > risen * least:
            yield _turned_round(history, recent, float(constants[-1]), risen)
        return
    gains = history.series("step_gain")[1][1:]
    uphill = float(np.mean(gains < 0)) if len(gains) >= samples else 0.0
    told = (
        -float(np.mean(gains)) * len(losses) if len(gains) else 0.0
    )  # how far the steps raise the loss, to first order
    if uphill > climbing and recent > risen * max(least, abs(losses[0])) and told > (recent - losses[0]) / 10:
        yield _uphill(history, uphill, climbing, float(losses[0]), recent)
        return
    remedies = (_target_network(), _clip(history), _lower(history))
    if losses.min() > 0:
        rising = recent > grown * max(least, float(losses[:3].mean()), float(block_means(losses, 16).min()))
        ratios = overshoot(history)[1] if rising else np.zeros(0)
        down = len(ratios) >= samples and float(np.mean(ratios[-samples:] > 0)) > climbing
        if (
            down
            and float(lasting_overshoot(history).max()) < stable
            and len(losses) >= 6 * patience
            and all(is_rising(losses[-len(losses) // part :]) for part in (2, 4))
        ):
            yield Evidence(
                f"The loss went from {losses[0]:.3g} up to {recent:.3g} and goes on rising, though each step goes down "
                "its slope: what it is measured against moves away faster.",
                readings=(Reading("loss", recent, grown * max(least, float(losses[:3].mean())), "loss", span),),
                confidence=0.8,
                remedies=remedies,
            )
    elif not len(constants) and len(losses) >= 6 * patience and _runs_away(losses, runaway):
        yield Evidence(
            f"The loss falls without end and ever faster, to {recent:.3g} now from {losses[len(losses) // 2]:.3g} at "
            "half of the run: nothing bounds it below.",
            readings=(Reading("loss", recent, None, "loss", span),),
            confidence=0.7,
            severity=Severity.WARNING,
            remedies=(_bounded(), *map(from_the_start, (bound_weights(history), *reversed(remedies[1:])))),
        )


def _runs_away(losses: Floats, times: float) -> bool:
    """Whether a negative loss grows in magnitude ``times`` from a quarter to half of the run, and again to its end."""
    means = block_means(losses, 16)
    quarter, half, end = float(means[3]), float(means[7]), float(means[15])
    return quarter < 0 and half < times * quarter and end < times * half and abs(end) > abs(losses[:3]).max()


def _turned_round(history: History, recent: float, constant: float, risen: float) -> Evidence:
    kind = history.facts.loss.kind
    return Evidence(
        f"What is minimised is the negative of the {kind} loss: it has reached {recent:.3g}, so that the {kind} loss "
        f"itself is {-recent:.3g} by now, {-constant:.3g} for a constant prediction.",
        readings=(
            Reading(f"{kind} loss, without the sign", -recent, -risen * constant, "loss", steps=(1, history.step)),
        ),
        confidence=0.95,
        remedies=(
            Remedy(
                action="Minimise the loss itself: take its sign away",
                code=f"loss = {_function(kind)}(output, target)  # and no minus before it\nloss.backward()",
                source="Goodfellow et al. 2016, Deep Learning, section 4.3",
                effect="each step makes the predictions better; start again with fresh weights",
            ),
            Remedy(
                action="Or let the optimizer maximise what is negated",
                code='for group in optimizer.param_groups:\n    group["maximize"] = True',
                source="PyTorch documentation, torch.optim.SGD, argument maximize",
                treatment=_maximise,
            ),
        ),
    )


def _function(kind: str) -> str:
    names = {"mse": "mse_loss", "nll": "nll_loss", "l1": "l1_loss", "smooth-l1": "smooth_l1_loss"}
    return "F." + names.get(kind, kind.replace("-", "_"))


def _uphill(history: History, share: float, bound: float, first: float, recent: float) -> Evidence:
    return Evidence(
        f"{share:.0%} of the steps go up the slope of the loss instead of down, and it rose from {first:.3g} to "
        f"{recent:.3g}: the optimizer maximises it.",
        readings=(Reading("share of the steps that raise the loss", share, bound, steps=(1, history.step)),),
        confidence=0.95,
        remedies=(
            Remedy(
                action="Let the optimizer minimise",
                code='for group in optimizer.param_groups:\n    group["maximize"] = False  # and no minus of your own',
                source="PyTorch documentation, torch.optim.Adam, argument maximize",
                effect="each step goes down; start again with fresh weights",
                treatment=_minimise,
            ),
        ),
    )


def _maximise(model: Any, optimizer: Any) -> None:
    _set_direction(optimizer, True)


def _minimise(model: Any, optimizer: Any) -> None:
    _set_direction(optimizer, False)


def _set_direction(optimizer: Any, up: bool) -> None:
    if optimizer is None or any("maximize" not in group for group in optimizer.param_groups):
        raise ValueError("this remedy sets the optimizer's argument maximize: pass an optimizer that has it")
    for group in optimizer.param_groups:
        group["maximize"] = up


def _target_network() -> Remedy:
    return Remedy(
        action="If targets are the model's own estimates, take them from a slow copy, with a discount below 1",
        code="with torch.no_grad():\n    target = reward + 0.99 * slow_copy(following)\n"
        "# and now and then: slow_copy.load_state_dict(model.state_dict())",
        source="Mnih et al. 2015, Human-level control through deep reinforcement learning",
        effect="an error no longer feeds the target that it is measured against",
    )


def _bounded() -> Remedy:
    return Remedy(
        action="Bound what may grow: penalise the slope of a critic, or use a loss that levels off",
        code="slope, = torch.autograd.grad(critic(x).sum(), x, create_graph=True)\n"
        "loss = loss + 10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()",
        source="Gulrajani et al. 2017, Improved Training of Wasserstein GANs",
        effect="larger weights no longer mean a lower loss",
    )


def _clip(history: History) -> Remedy:
    norms = history.series("gradient_norm")[1]
    return clip_gradients(float(f"{np.median(norms[:8]):.2g}") if len(norms) and np.median(norms[:8]) > 0 else 1.0)


def _lower(history: History) -> Remedy:
    rates = history.table("learning_rate").values
    return scale_learning_rate(
        0.1, float(np.nanmax(rates[-1])) if rates.size and np.isfinite(rates[-1]).any() else None
    )


def _history(
    loss: list[float], gain: list[float], constant: float | None = 2.3, kind: str = "cross-entropy"
) -> History:
    facts = Facts(groups=(Group("SGD", 0, 0.1),), loss=Loss(kind))
    history = History.of(facts, loss=loss, step_gain=gain, learning_rate={"0": [0.1] * len(loss)})
    if constant is not None:
        history.record_rows(range(1, len(loss) + 1), "constant_loss", [[constant]] * len(loss))
    return history


_RISING = [1.2 * 1.05**i for i in range(80)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([2.3 + 0.2 * i for i in range(40)], [-0.1] * 40),
        _history([-2.3 - 0.5 * i for i in range(40)], [0.2] * 40, -2.3),
        _history(_RISING, [0.1 * n for n in _RISING], None),
        _history([-0.01 * 1.1**i for i in range(100)], [0.01] * 100, None, ""),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history([2.3 * 0.95**i for i in range(40)], [0.05] * 40),  # healthy
        _history([0.01 + 0.001 * (-1) ** i for i in range(40)], [1e-4 * (-1) ** i for i in range(40)]),  # converged
        _history([2.3 + 0.2 * i for i in range(8)], [-0.1] * 8),  # too early
        _history(_RISING, [9.0 * n for n in _RISING], None),  # steps too long
        _history([1.0 - 0.02 * i for i in range(100)], [0.02] * 100, None, ""),  # a density: negative, and healthy
    )
