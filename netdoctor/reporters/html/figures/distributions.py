"""How activations and gradients are distributed in every layer, at chosen steps."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netdoctor.history import History
from netdoctor.reporters.html.embed import plain
from netdoctor.reporters.html.figures.base import Figure, groups
from netdoctor.reporters.html.naming import layer_named
from netdoctor.reporters.html.numbers import counted, spelled

STEPS = 24  # to choose from: they are recorded at log-spaced steps, so that these are nearly all
LAYERS = 256  # that are drawn at most
UNEVEN = 30.0  # widest over narrowest layer from which a linear axis hides the narrow ones


def activation_distributions(history: History) -> Figure | None:
    return _distributions(history, "activation_quantile_", "activation-distribution", "activations", "Activations")


def gradient_distributions(history: History) -> Figure | None:
    return _distributions(
        history, "activation_gradient_quantile_", "gradient-distribution", "gradients at the outputs", "Gradients"
    )


def _distributions(history: History, prefix: str, name: str, what: str, title: str) -> Figure | None:
    found = {s: int(match[1]) for s in history.statistics if (match := re.fullmatch(f"{prefix}(\\d\\d)", s))}
    levels = sorted(found, key=found.__getitem__)
    if not levels:
        return None
    table = history.table(levels[0])
    if any(history.table(s).columns != table.columns for s in levels):
        return None
    places = {layer.name: place for place, layer in enumerate(history.facts.layers)}
    columns = sorted(range(len(table.columns)), key=lambda i: places.get(table.columns[i], len(places)))
    columns = [columns[i] for i in groups(len(columns), LAYERS)]
    steps, values = _common(history, levels, columns)
    if not len(steps):
        return None
    chosen = np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))
    steps, values = steps[chosen], values[chosen]
    widths = np.where(np.isfinite(values), np.abs(values), 0).max(1)  # [steps, layers]
    wide, narrow = float(widths.max()), float(np.min(widths[widths > 0], initial=np.inf))
    data: dict[str, Any] = {
        "levels": [found[s] for s in levels],
        "layers": [layer_named(table.columns[i]) for i in columns],
        "steps": steps.tolist(),
        "values": [[plain(level) for level in step] for step in values],
        "log": wide > UNEVEN * narrow,
    }
    first, last = table.columns[columns[0]], table.columns[columns[-1]]
    summary = (
        f"Quantiles of the {what} of {counted(len(columns), 'layer')} at {counted(len(steps), 'step')}, "
        f"{steps[0]} to {steps[-1]}. At step {steps[-1]} the largest quantile is {spelled(float(widths[-1, 0]))} in "
        f"magnitude at {layer_named(first)} and {spelled(float(widths[-1, -1]))} at {layer_named(last)}."
    )
    caption = (
        f"Quantiles of the {what} by layer, in the order of execution: the median, and bands from "
        f"{_span(found, levels)}. Choose the step below; thin lines show the first one."
    )
    return Figure(name, "distributions", f"{title} by layer", caption, summary, data, wide=True)


def _common(history: History, levels: list[str], columns: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps at which all quantiles were recorded, and the quantiles, [steps, levels, layers]."""
    steps = history.table(levels[0]).steps
    for level in levels[1:]:
        steps = np.intersect1d(steps, history.table(level).steps)
    tables = [history.table(level) for level in levels]
    if not len(steps):
        return steps, np.zeros((0, len(levels), len(columns)))
    rows = [np.searchsorted(table.steps, steps) for table in tables]
    stacked = [table.values[at][:, columns] for table, at in zip(tables, rows, strict=True)]
    return steps, np.stack(stacked, 1)


def _span(found: dict[str, int], levels: list[str]) -> str:
    """The bands in words: "1 to 99 %, 5 to 95 %"."""
    numbers = [found[level] for level in levels]
    pairs = [(low, 100 - low) for low in numbers if low < 50 and 100 - low in numbers]
    return ", ".join(f"{low} to {high} %" for low, high in pairs) or "the lowest to the highest"
