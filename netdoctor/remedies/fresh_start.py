"""What the steps ruined does not recover by itself: fresh weights, and smaller steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netdoctor.facts import Facts
from netdoctor.findings import Remedy
from netdoctor.remedies.initialisation import initialise
from netdoctor.remedies.optimizer_options import scale_learning_rate
from netdoctor.remedies.procedure import in_turn


def from_the_start(remedy: Remedy) -> Remedy:
    """The same for a new model: what the steps have done since does not recover by it."""
    return replace(
        remedy,
        action=f"{remedy.action}, and start again: these weights seldom recover",
        code=f"# build model and optimizer anew, then, before the first step:\n{remedy.code}",
        restart=True,
    )


def start_again(facts: Facts, layers: Sequence[str], factor: float) -> Remedy:
    """Re-initialise ``layers`` and go on with ``factor`` times the learning rate that ruined their weights."""
    rates = [group.learning_rate for group in facts.groups]
    fresh, slower = initialise(facts, layers), scale_learning_rate(factor, rates[0] if len(rates) == 1 else None)
    return Remedy(
        action=f"{slower.action} and start again with fresh weights: what the steps ruined does not recover by itself",
        code=f"{slower.code}\n{fresh.code}",
        source=f"{slower.source}; {fresh.source}",
        effect="steps of about 1 % of the weights",
        treatment=in_turn(fresh, slower),
    )
