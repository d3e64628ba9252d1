"""Generators that an opponent judges: another network, behind their output or with a loss of its own."""

from __future__ import annotations

import numpy as np

from netdoctor import remedies
from netdoctor.facts import Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy
from netdoctor.history import History

JUDGES = {"AddmmBackward0", "MmBackward0", "ConvolutionBackward0"}  # layers of another network behind the output
FEW = 12  # samples, the last half of all, that tell how a mean moves
TURNS = 4  # times that such a mean crosses its trend
NORMAL = 0.1  # how far mean and deviation of standard normal noise may seem to lie from 0 and 1


def judged(facts: Facts) -> bool:
    """Whether the loss is another network's answer, or several optimizers minimise losses of their own."""
    return any(node in JUDGES for node in facts.loss.nodes) or facts.several_losses


def wandering(history: History, restless: float, together: float) -> Evidence | None:
    """A generator whose points lie in one place, which moves on when its opponent has found it."""
    for layer in _generators(history):
        mean, spread, size = (
            history.series(f"activation_{kind}", layer.name)[1].astype(float) for kind in ("mean", "signal", "rms")
        )
        half = len(mean) // 2
        if half < FEW or len({len(mean), len(spread), len(size)}) > 1:
            continue
        mean, spread, size = mean[-half:], spread[-half:], size[-half:]
        places = np.arange(half)
        aside = mean - np.polyval(np.polyfit(places, mean, 1), places)
        way, width = float(np.std(aside)), float(np.median(spread))
        turns = int(np.count_nonzero(np.diff(aside > 0)))  # a mean that moves along a bow is on its way somewhere
        near = float(np.median(spread / np.maximum(size, 1e-30))) <= together
        if turns < TURNS or not way > restless * width or not near:
            continue
        return Evidence(
            message=f"All noise gets nearly the same answer, and not the same for long: over the last {half} samples "
            f"what {spoken(layer.name)} says spreads over {width:.2g} in a batch, while its mean wanders by {way:.2g}.",
            layers=(layer.name,),
            readings=(Reading(f"way of the mean of {layer.name} over its spread", way / max(width, 1e-30), restless),),
            confidence=0.8,
            remedies=equal_opponent(history.facts),
        )
    return None


def _generators(history: History) -> list[Layer]:
    """The last layers of networks that take standard normal noise and are judged by another network."""
    facts = history.facts
    if not judged(facts):
        return []
    behind = any(node in JUDGES for node in facts.loss.nodes)
    groups = {(parameter.layer, parameter.group) for parameter in facts.parameters if parameter.role == "weight"}
    owner = {layer: group for layer, group in groups if group is not None}
    called = [layer for layer in facts.layers if layer.called and layer.name in owner]
    first = {owner[layer.name]: layer for layer in reversed(called)}
    last = {owner[layer.name]: layer for layer in called}
    found = []
    for group, layer in last.items():
        mean, std = (history.series(f"input_{kind}", first[group].name)[1] for kind in ("mean", "std"))
        noise = len(mean) and abs(float(np.median(mean))) < NORMAL and abs(float(np.median(std)) - 1) < NORMAL
        if noise and layer.units > 1 and (behind or layer.name != facts.loss.layer):
            found.append(layer)
    return found


def equal_opponent(facts: Facts) -> tuple[Remedy, ...]:
    """What keeps a generator's opponent up with it."""
    rates = [group.learning_rate for group in facts.groups]
    slow = remedies.scale_learning_rate(0.1, rates[0] if len(rates) == 1 else None)
    more = Remedy(
        action="Train the discriminator more often than the generator",
        code="for _ in range(5):\n    train_discriminator()\ntrain_generator()",
        source="Arjovsky et al. 2017, Wasserstein GAN, algorithm 1",
        effect="a generator that answers with one point is found out before it can move on",
    )
    return slow, more
