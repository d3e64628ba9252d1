"""A loss that jumps for a moment: single batches whose gradients throw the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import Facts, Group, Loss
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.gains import lasting_overshoot, overshoot, reference
from netdoctor.history import History
from netdoctor.remedies import clip_gradients
from netdoctor.rules.base import rule

Floats = NDArray[np.float64]
ALIKE = 3  # losses after a jump that tell; the first one that differs will do
START = 3  # steps: those of a start that finds its scale are no spikes


@dataclass(frozen=True)
class _Spikes:
    """Steps at which it jumped, the largest loss there, what was usual, and whether the gradient told."""

    steps: tuple[int, ...]
    peak: float
    usual: float
    pulled: bool = False


@rule(Severity.WARNING, explains=("learning-rate-too-large", "exploding-gradient", "not-learning"))
def loss_spike(
    history: History,
    *,
    jump: float = 5.0,  # × the largest loss of the 50 steps before; 210 healthy runs: 2.8
    rise: float = 1.0,  # of what there is to lose: less does not throw away all that was learned
    window: int = 50,  # steps before that tell what is usual
    calm: float = 0.5,  # promise of the steps before over that of stable ones: above, they were too long already
    pull: float = 7.0,  # × the median gradient norm of the samples around; 210 healthy runs: 8, once
    sigmas: float = 4.0,  # robust deviations above the median of the losses around
    apart: float = 0.02,  # of what there is to lose, above that median: near 0 everything scatters
    floor: float = 0.1,  # of what there is to lose: below, one doubtful sample makes most of a loss; ``rise`` holds
    recurring: int = 3,  # such steps: batches that hold something else
    common: float = 0.95,  # share of the most frequent class: the rarest one's batches stand out rightly
) -> Iterator[Evidence | Skipped]:
    """Single batches have losses and gradients many times those of all others.

    ## What it looks at
    The loss of each step against the largest of the 50 before it, after calm steps; or, where it happens again and
    again, against all other losses around. And, as not every spike is high: sampled steps whose gradient is seven times
    that of the samples around, while the loss stands out by four deviations, if that recurs.

    ## Why it matters
    One such step can undo a hundred others, and Adam remembers it for a thousand. Mostly it is the data: broken
    rows, targets in another unit, an image decoded wrongly.

    ## When it is wrong
    Data that are others from one step on, as in continual learning, are no spike: the batches after cost as much as
    the first one. Batches of one to four samples, rare classes and tokens: their losses
    scatter, but seldom ten times as far.

    ## References
    Pascanu et al. 2013, section 3.2. Chowdhery et al. 2022, PaLM, section 5.1 (skipping batches). Molybog et al. 2023,
    A Theory on Adam Instability in Large-Scale Machine Learning.
    """
    steps, losses = history.series("loss")
    if history.facts.several_losses or len(losses) < window // 2:
        yield Skipped("several losses" if history.facts.several_losses else f"fewer than {window // 2} losses")
        return
    if history.latest("largest_class_share").get("", 0.0) > common:
        return
    values, least = losses.astype(np.float64), reference(history)
    high = rise * least
    found = None
    if not 0 < values.max() <= jump * values.min():  # else nothing stands out
        found = _jumps(history, steps, values, window, jump, high, calm)
        found = found or _repeated(history, steps, values, window, jump, high, recurring, calm)
    bounds = apart * least, floor * least, high
    found = found or _recurring(history, steps, values, pull, sigmas, bounds, recurring, calm)
    if found is None:
        return
    norms = history.series("gradient_norm")[1]
    usual = float(np.median(norms))
    often = len(found.steps)
    at = ", ".join(map(str, found.steps[:4])) + (" …" if often > 4 else "")
    recovered = float(np.median(values[-5:])) < 2 * found.usual
    after = "" if steps[-1] - found.steps[-1] < 5 else ", and has come down again" if recovered else ", and stays up"
    yield Evidence(
        f"The loss jumped to {found.peak:.3g} from {found.usual:.3g} before{after}: the batch of step {at} differs "
        "from all others."
        if often == 1
        else f"At {often} steps ({at}) the loss jumped to up to {found.peak:.3g} from {found.usual:.3g} around and was "
        "back at the next one: some batches hold what the others do not."
        if not found.pulled
        else f"At {often} sampled steps ({at}) the gradient was more than {pull:g} times the usual {usual:.3g} and the "
        f"loss up to {found.peak:.3g} against {found.usual:.3g} around: some batches hold what the others do not.",
        readings=(
            Reading("loss, largest", found.peak, jump * found.usual, "loss", (found.steps[0], found.steps[-1])),
            Reading("gradient norm, median", usual, None, "loss/w", (1, history.step)),
        ),
        confidence=0.85 if often > 1 or found.peak > 2 * jump * found.usual else 0.7,
        remedies=(
            _clip(usual, found.steps[0] if often == 1 else 0),
            _look_at_the_batch(found.steps[0]),
            _skip(5 * found.usual),
        ),
    )


def _clip(usual: float, spike: int) -> Remedy:
    """Twice the usual norm is plenty; what one step threw away, as at ``spike``, later ones may not bring back."""
    clip = clip_gradients(float(f"{2 * usual:.1g}") if usual > 0 else 1.0)
    if not spike:
        return clip
    return replace(
        clip,
        action=f"Go back to the weights from before step {spike}, or start again. {clip.action}",
        code=f'model.load_state_dict(torch.load("before-{spike}.pt"))\n{clip.code}',
        restart=True,
    )


def _jumps(
    history: History, steps: NDArray[np.int64], losses: Floats, window: int, jump: float, rise: float, calm: float
) -> _Spikes | None:
    """The first jump after calm steps."""
    if len(losses) <= window:
        return None
    before = np.lib.stride_tricks.sliding_window_view(losses[:-1], window).max(1)
    over = np.flatnonzero((losses[window:] > jump * before) & (losses[window:] - before > rise) & (before > 0))
    if not len(over):
        return None
    at = window + int(over[0])
    if not _calm(history, int(steps[at]), calm) or losses[:at].max() > 3 * max(losses[:3].max(), reference(history)):
        return None
    if _other_data(losses[at:]):
        return None
    end = at + int(np.argmax(losses[at : at + 20]))
    return _Spikes((int(steps[at]),), float(losses[end]), float(before[over[0]]))


def _other_data(losses: Floats) -> bool:
    """Whether the batches after a jump cost about what its own does: other data from then on.

    One step does not make usual data cost as much as the batch that it was made of, but by chance.
    """
    after = losses[1 : 1 + ALIKE]
    return bool(np.all((after > 0.5 * losses[0]) & (after < 1.25 * losses[0])))


def _repeated(
    history: History,
    steps: NDArray[np.int64],
    losses: Floats,
    window: int,
    jump: float,
    rise: float,
    least: int,
    calm: float,
) -> _Spikes | None:
    """Single steps far above all others around, with nothing between."""
    if history.table("loss").stride > 1 or not len(steps) >= window:
        return None
    beside = jump * np.maximum(losses[:-2], losses[2:])
    alone = START + np.flatnonzero((losses[1:-1] > np.maximum(beside, rise))[START - 1 :])
    rest = losses.copy()
    rest[alone] = 0.0
    found, usual = [], []
    for place in alone if least <= len(alone) <= len(losses) // 10 else ():
        near = rest[max(0, place - window) : place + window + 1]
        middle = float(np.median(near))
        if losses[place] > max(jump * float(near.max()), middle + rise) > 0 < middle:
            found.append(int(steps[place]))
            usual.append(middle)
    if len(found) < least or not _calm(history, found[0], calm):
        return None
    return _Spikes(tuple(found), float(losses[alone].max()), float(np.median(usual)))


def _calm(history: History, before: int, bound: float) -> bool:
    """Whether steps were of a stable length until then: else they are the cause."""
    earlier = int(np.searchsorted(overshoot(history)[0], before))
    return earlier < 3 or float(lasting_overshoot(history)[: earlier - 2].max()) <= bound


def _recurring(
    history: History,
    steps: NDArray[np.int64],
    losses: Floats,
    pull: float,
    sigmas: float,
    bounds: tuple[float, float, float],
    least: int,
    calm: float,
) -> _Spikes | None:
    when, norms = history.series("gradient_norm")
    if len(norms) < 4 * least or history.table("loss").stride > 1:
        return None
    usual, (apart, floor, rise) = float(np.median(norms)), bounds
    hits, places = [], []  # of samples: a start that all share fills several in a row
    unusual = np.flatnonzero((norms > pull * usual) & (when > START))
    for place in unusual if len(unusual) >= least else ():
        around = norms[max(0, place - 10) : place + 11]
        if 2 * np.count_nonzero(norms[place] > pull * around) < len(around):  # nor is it above the median of these
            continue
        row = int(np.searchsorted(steps, when[place]))
        if row >= len(steps) or norms[place] <= pull * float(np.median(around)):
            continue
        near = losses[max(0, row - 25) : row + 26]
        middle, spread = float(np.median(near)), float(np.median(np.abs(np.diff(near)))) / 0.954
        if losses[row] > middle + max(sigmas * spread, apart if middle > floor else rise) > 0:
            hits.append((int(when[place]), float(losses[row]), middle))
            places.append(int(place))
    apart_in_time = 1 + sum(later - place > 1 for place, later in pairwise(places))
    if not hits or apart_in_time < least or 4 * len(hits) > len(norms) or not _calm(history, hits[-1][0], calm):
        return None
    return _Spikes(
        tuple(hit[0] for hit in hits), max(hit[1] for hit in hits), float(np.median([hit[2] for hit in hits])), True
    )


def _look_at_the_batch(step: int) -> Remedy:
    return Remedy(
        action=f"Look at the batch of step {step}: values out of range, broken rows, targets in another unit?",
        code="for i, (x, y) in enumerate(loader, 1):\n"
        f"    if i == {step}:  # with the same seed and order as in this run\n"
        "        print(x.min(), x.max(), x.std(), y.float().min(), y.float().max())",
        source="Karpathy 2019, A Recipe for Training Neural Networks, step 1",
    )


def _skip(bound: float) -> Remedy:
    return Remedy(
        action="Or leave out the steps of batches that stand out",
        code=f"if loss.item() < {bound:.3g}:\n    loss.backward()\n    optimizer.step()\noptimizer.zero_grad()",
        source="Chowdhery et al. 2022, PaLM, section 5.1",
        effect="no single batch moves the weights far",
    )


def _history(loss: list[float], norm: list[float], gain: float = 0.01) -> History:
    count = len(loss)
    return History.of(
        Facts(groups=(Group("SGD", 0, 0.1),), loss=Loss("cross-entropy")),
        loss=loss,
        constant_loss=[2.3] * count,
        gradient_norm=norm,
        step_gain=[gain] * count,
    )


_FALLING = [2.3 * 0.98**i + 0.03 * ((7 * i) % 11 - 5) / 5 for i in range(120)]
_BATCHES = [20.0 if i % 30 == 9 else 1.0 for i in range(120)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history([90.0 if i == 80 else loss for i, loss in enumerate(_FALLING)], [1.0] * 120),
        _history([60.0 if i % 40 == 35 else loss for i, loss in enumerate(_FALLING)], [1.0] * 120),
        _history([loss + 0.5 * (norm > 1) for loss, norm in zip(_FALLING, _BATCHES, strict=True)], _BATCHES),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(_FALLING, [1.0] * 120),  # healthy
        _history([1e-3 if i != 80 else 0.1 for i in range(120)], [0.01] * 120),  # converged
        _history([0.1] * 80 + [2.7 * 0.97**i for i in range(40)], [1.0] * 120),  # other data from then on
        _history([90.0 if i == 80 else loss for i, loss in enumerate(_FALLING)], [1.0] * 120, 20.0),  # steps too long
        _history([1e-3 + 0.1 * (norm > 1) for norm in _BATCHES], _BATCHES),  # converged: doubtful samples
        _history([60.0 if i % 40 in (35, 36) else loss for i, loss in enumerate(_FALLING)], [1.0] * 120),  # thrown
        _history([2.3, 2.2, 90.0, 2.1, 2.0] * 4, [1.0] * 20),  # too early
    )
