"""Every picture of the page, in its order: one module each, a function from a history to a `Figure` or None."""

from __future__ import annotations

from netdoctor.history import History
from netdoctor.reporters.html.figures.base import Figure
from netdoctor.reporters.html.figures.curves import other_curves
from netdoctor.reporters.html.figures.distributions import activation_distributions, gradient_distributions
from netdoctor.reporters.html.figures.gradients import gradient_cosines, gradient_norms
from netdoctor.reporters.html.figures.layers_by_steps import layers_by_steps
from netdoctor.reporters.html.figures.losses import losses
from netdoctor.reporters.html.figures.rates import learning_rates
from netdoctor.reporters.html.figures.updates import update_ratios

__all__ = ["Figure", "figures"]


def figures(history: History, selected: str = "", kept: frozenset[str] = frozenset()) -> tuple[Figure, ...]:
    """All pictures for which the history has numbers.

    Args:
        history: The numbers.
        selected: Statistic that the map of layers and steps shows first.
        kept: Layers that the map shows however many there are.
    """
    drawn = (
        losses(history),
        layers_by_steps(history, selected, kept),
        activation_distributions(history),
        gradient_distributions(history),
        update_ratios(history),
        gradient_norms(history),
        gradient_cosines(history),
        learning_rates(history),
        *other_curves(history),
    )
    return tuple(figure for figure in drawn if figure is not None)
