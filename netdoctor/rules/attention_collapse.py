"""Attention that picks one key for each query, and learns no more."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.attention import Softmax, divided, normed, quieter, softmaxes
from netdoctor.facts import Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("loss-plateau", "not-learning"))
def attention_collapse(
    history: History,
    *,
    sharp: float = 0.1,  # entropy over that of equal shares, at the start; logits of variance 1 have 0.8, of 30 this
    many: float = 0.3,  # entropy of the mean over the batch: below, all queries share one key, as trained models do
    sharper: float = 0.05,  # the same later, for attention that was broad; measured: 0.07 in models that learned
    broad: float = 0.5,  # what counts as broad; logits of variance 1 have 0.8, of variance 9 this
    little: float = 0.15,  # gain of the loss over a constant: attention that sharpens by learning wins more
    learned: float = 0.5,  # the same: beyond, what was sharp from the start does its work
    readings: int = 3,  # latest thorough samples that must agree
) -> Iterator[Evidence | Skipped]:
    """Each query attends to a single key before the model has learned which: the softmax passes no gradient.

    ## What it looks at
    The mean entropy of each softmax over products of queries and keys, as a share of that of equal shares (what a mask
    excludes left out): at the first sample, where different queries pick different keys; later where the loss has
    hardly gained on a constant prediction, or where it was never broad and grew sharper yet.

    ## Why it matters
    A softmax at its bound has a slope of 0: which key is picked was decided at random, and no gradient changes it.

    ## When it is wrong
    Models that were trained before attend sharply, to the first token above all. Temperatures and hard attention may be
    meant. Attention that copies is sharp once it has learned: it is judged by what the loss gained.

    ## References
    Zhai et al. 2023, Stabilizing transformer training by preventing attention entropy collapse. Vaswani et al. 2017,
    section 3.2.1 (why scores are scaled). Noci et al. 2022, Signal propagation in transformers.
    """
    known = [each for each in softmaxes(history) if each.attention]
    if not known:
        yield Skipped("no attention measured yet")
        return
    state = progress(history)
    gain = 0.0 if state is None else state.gain
    found = [each for each in known if each.entropy[0] <= sharp and each.entropy[-1] <= 2 * sharp]
    found = [each for each in found if each.balance[0] >= many and gain < learned]
    start = bool(found)
    if not found and state is not None and gain < learned:
        found = [each for each in known if len(each.entropy) > readings and each.entropy[-readings:].max() <= sharper]
        found = [
            each
            for each in found
            if (gain < little and each.entropy[0] >= broad)
            or (each.entropy[0] < broad and each.balance[[0, *range(-readings, 0)]].min() >= many)
        ]
    if not found:
        return
    worst = found[0]
    more = f" (and of {len(found) - 1} more)" if len(found) > 1 else ""
    text = f"Each query of {spoken(worst.name)}{more} attends to one key alone: the entropy of its shares is "
    text += (
        f"{worst.entropy[0]:.1%} of that of equal ones from the start"
        if start
        else (f"{worst.entropy[-1]:.1%} of that of equal ones, {worst.entropy[0]:.0%} at the start")
    )
    bound = sharp if start else sharper
    first, then = divided(history, found), (quieter(history.facts, found),)
    yield Evidence(
        message=f"{text}; logits reach {worst.logits[-1]:.3g}.",
        layers=tuple(each.name for each in found),
        readings=tuple(
            Reading(f"entropy of {each.name}", _last(each), bound, "", (int(each.steps[0]), int(each.steps[-1])))
            for each in found
        ),
        confidence=0.85 if start else 0.8,
        remedies=(*first, *then, normed()) if start else (*then, *first, normed()),
    )


def _last(softmax: Softmax) -> float:
    return float(softmax.entropy[-1])


_FACTS = Facts(layers=(Layer("query", "linear", "Linear", "", 32, 32, 32, "", ("norm",), residual=True, called=True),))


def _run(entropy: list[float], loss: list[float], balance: float = 0.8, logit: float = 80.0) -> History:
    steps = [2**i for i in range(len(entropy))]
    history = History.of(
        _FACTS,
        steps,
        softmax_entropy={"query": entropy},
        softmax_balance={"query": [balance] * len(entropy)},
        attention_logit={"query": [logit] * len(entropy)},
    )
    for step, value in enumerate(loss, 1):
        history.record(step, "loss", [value])
        history.record(step, "constant_loss", [2.2])
    return history


_STALLED, _LEARNING = [2.2] * 64, [2.2 * 0.97**i for i in range(64)]


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _run([0.02], []),
        _run([0.95, 0.8, 0.3, 0.04, 0.02, 0.01, 0.01], _STALLED),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _run([0.95, 0.95, 0.94, 0.9, 0.8, 0.7, 0.6], _LEARNING),  # healthy
        _run([0.95, 0.8, 0.3, 0.04, 0.02, 0.01, 0.01], _LEARNING),  # learned to copy
        _run([0.05, 0.05, 0.05], [], balance=0.1),  # all attend to the first token: trained before
        _run([0.02, 0.03, 0.05, 0.05, 0.05, 0.05, 0.05], _LEARNING),  # sharp by design
        _run([0.95, 0.04], [2.2] * 4),  # too early
        _run([0.01], [], logit=float("nan")),  # a gate
    )
