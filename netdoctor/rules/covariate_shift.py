"""Layers whose input distribution moves faster than they can follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from netdoctor import remedies
from netdoctor.depth import medians
from netdoctor.derived import of_facts
from netdoctor.facts import WEIGHTED, Facts, Layer
from netdoctor.findings import Evidence, Reading, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress, weight_updates
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("underfitting", "loss-plateau", "not-learning"))
def covariate_shift(
    history: History,
    *,
    shift: float = 0.2,  # of the input's std from sample to sample; where training stalls for other reasons: 0.1
    share: float = 0.5,  # of the hidden layers that move so: sick 0.27 to 0.55 in their median, with BatchNorm 0.02
    samples: int = 10,  # latest readings that are compared
    fewest: int = 6,  # of them; below, the median change is one outlier's
    dropped: float = 0.5,  # of a layer's units: dropout of more moves what is left by chance
    alive: float = 0.75,  # share of silent units from which a layer's output tells nothing
    batch: int = 16,  # samples; the inputs of smaller batches move by chance (0.3 in batches of 4)
    patience: int = 20,  # losses before a training counts as stalled
) -> Iterator[Evidence | Skipped]:
    """The inputs of hidden layers keep moving by much of their own spread, and training stalls.

    ## What it looks at
    Mean and standard deviation of each hidden weight layer's input over the last 10 samples: the median change of the
    mean, in units of the standard deviation, and of the logarithm of the standard deviation. It speaks where half the
    hidden layers move by a fifth and training stalls.

    ## Why it matters
    Each layer is trained for inputs that are gone at the next step: every step of the layers below undoes what it
    learned. Deeper nets and larger steps make it worse; normalised inputs stay where they are.

    ## When it is wrong
    Inputs move in healthy nets too while they learn (up to 0.4 in a small CNN): so it is silent wherever training gets
    anywhere. Too large a learning rate moves everything and is then the cause; normalisation makes it bearable.
    Batches of a few samples move by chance; so do those of experts, which are not judged.

    ## References
    Ioffe & Szegedy 2015. Santurkar et al. 2018, How does batch normalization help optimization?, for what it is not.
    """
    course = progress(history)
    if course is None:
        yield Skipped("fewer than 10 losses, or losses that do not tell of progress")
        return
    means, stds = (history.window(name, samples).astype(float) for name in ("input_mean", "input_std"))
    if len(means) < fewest or means.shape != stds.shape:
        yield Skipped(f"fewer than {fewest} samples")
        return
    if 0 < history.facts.batch < batch:
        yield Skipped(f"batches of {history.facts.batch} move by chance")
        return
    if not course.stalled or course.steps < patience:
        return
    table = history.table("input_mean")
    hidden = _hidden(history, alive, dropped)
    columns = [table.place[name] for name in hidden if name in table.place]
    means, stds = means[:, columns], stds[:, columns]
    usable = np.isfinite(means).all(0) & np.isfinite(stds).all(0) & (stds > 0).all(0)
    names = [table.columns[i] for i, good in zip(columns, usable, strict=True) if good]
    if len(names) < 2:
        return
    means, stds = means[:, usable], stds[:, usable]
    of_mean = medians(np.abs(means[1:] - means[:-1])) / medians(stds)
    of_std = medians(np.abs(np.log(stds[1:] / stds[:-1])))
    moves = np.maximum(of_mean, of_std)
    moving = {names[place]: float(moves[place]) for place in np.flatnonzero(moves >= shift)}
    if len(moving) < max(2, share * len(names)):
        return
    steps = (int(table.steps[-len(means)]), int(table.steps[-1]))
    worst = max(moving, key=lambda name: moving[name])
    largest = float(weight_updates(history)[1][-samples:].max(initial=0.0))
    rates = [group.learning_rate for group in history.facts.groups]
    slow = remedies.scale_learning_rate(remedies.slower(max(largest, 0.02)), rates[0] if len(rates) == 1 else None)
    yield Evidence(
        message=f"The inputs of {len(moving)} of {len(names)} hidden layers keep moving while the loss stalls at "
        f"{course.recent:.3g}: that of {worst} changes by {moving[worst]:.2g} of its spread from sample to sample; "
        f"{shift:g} is much.",
        layers=tuple(moving),
        readings=tuple(
            Reading(f"change of the input of {name}, in its std", move, shift, steps=steps)
            for name, move in moving.items()
        ),
        confidence=0.7,
        remedies=(
            remedies.normalise(history.facts, _sources(history.facts)),
            *((slow,) if largest >= 0.02 else ()),
        ),
    )


def _hidden(history: History, alive: float, dropped: float) -> list[str]:
    """Weight layers behind others, except where what feeds them is silent, or dropped for the most part.

    Nor experts: a gate sends them some samples of the batch, others each time.
    """
    silent = {name for name, share in history.latest("silent_share").items() if share >= alive}
    return [name for name, sources in _fed(history.facts, dropped).items() if not silent.issuperset(sources)]


@of_facts
def _fed(facts: Facts, dropped: float) -> dict[str, list[str]]:
    """The layers that feed each weight layer, without those that are dropped for the most part, or experts."""
    moved = {name for layer in facts.layers if layer.rate > dropped for name in layer.inputs}
    return {
        layer.name: sources
        for layer in facts.layers
        if layer.called and layer.kind in WEIGHTED and not 0 < layer.samples < facts.batch
        if (sources := [name for name in layer.inputs if name not in moved])
    }


def _sources(facts: Facts) -> list[str]:
    """All weight layers that feed another one directly, in order of execution: a normalisation goes behind them."""
    layers = {layer.name: layer for layer in facts.layers if layer.called}
    found = set()
    for layer in layers.values():
        for source in layer.inputs if layer.kind in WEIGHTED else ():
            while source in layers and layers[source].kind == "activation" and layers[source].inputs:
                source = layers[source].inputs[0]
            if source in layers and layers[source].kind in WEIGHTED:
                found.add(source)
    return [name for name in layers if name in found]


_FACTS = Facts(
    layers=tuple(
        Layer(str(i), "linear", "Linear", "", 64, 64, 64, "relu", (str(i - 1),) if i else (), called=True)
        for i in range(4)
    )
)


def _run(move: float, loss: list[float], facts: Facts = _FACTS) -> History:
    """Three hidden layers whose inputs move to and fro by ``move``."""
    count = len(loss)
    means = {str(i): [0.5 + move * (-1) ** t * (i > 0) for t in range(count)] for i in range(4)}
    stds = {str(i): [1.0] * count for i in range(4)}
    return History.of(facts, input_mean=means, input_std=stds, loss=loss, constant_loss=[2.3] * count)


_STALLED = [2.3] * 40
_EXPERTS = _FACTS.with_changes(layers=tuple(replace(layer, samples=12) for layer in _FACTS.layers), batch=64)


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_run(0.3, _STALLED),)


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _run(0.02, _STALLED),  # stalls for another reason
        _run(0.3, [2.3 * 0.95**i for i in range(40)]),  # moves and learns
        _run(0.3, [2.3] * 5),  # too early
        _run(0.3, _STALLED, _EXPERTS),
        History.of(_FACTS),
    )
