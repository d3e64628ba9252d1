"""One picture of a sick run beside its healthy twin: the losses of both, and the numbers that the rule looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from netdoctor import Finding, History
from netdoctor.reporters.html.evidence import PICTURES as EVIDENCE
from netdoctor.reporters.html.figures.layers_by_steps import drawable, scale
from netdoctor.reporters.html.naming import described, site_of, titled

SICK, WELL = ("#c0392b", "with the fault"), ("#1e8449", "without it")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "netdoctor",
}
MOVING = "covariate-shift"  # how far inputs move is no statistic: it is drawn as the rule works it out
POINTS = 150  # of a line at most
FEW = 12  # points of a line at most that have a dot: a run that is lost at once is no line
LABELS = 16  # names of layers below an axis at most

Floats = NDArray[np.float64]


def draw(sick: History, well: History, finding: Finding, path: Path) -> str:
    """Write the picture of a finding in ``sick`` as SVG.

    Returns:
        What it says beside the loss, in Markdown, "" where it shows nothing else.
    """
    statistic, when = EVIDENCE.get(finding.rule, ("loss", "run"))
    moving = finding.rule == MOVING
    layers = when != "run" and not moving and drawable(sick, statistic) and drawable(well, statistic)
    panels = 3 if layers else 2 if moving or (statistic != "loss" and when == "run") else 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.8) if panels > 1 else (6, 2.8), layout="constrained")
        axes: list[Axes] = list(figure.subplots(1, panels, squeeze=False)[0])
        _over_steps(axes[0], sick, well, "loss", finding.step)
        words = described(statistic) or f"{titled(statistic)}."
        if moving:
            _moves(axes[1], sick, well, finding.step)
            words = (
                "Change of the mean of a layer's input from sample to sample, in its std: median of the weight layers."
            )
        elif panels == 2:
            _over_steps(axes[1], sick, well, statistic, finding.step)
        elif layers:
            axes[2].sharey(axes[1])
            for axis, (colour, name) in zip(axes[1:], (SICK, WELL), strict=True):
                axis.set_title(name, color=colour)
            axes[1].set_ylabel(titled(statistic))
            step = 0 if when == "first" else finding.step
            _by_layer(axes[1], axes[2], sick, well, statistic, step, set(finding.layers))
            words += " By layer; the layers named are diamonds."
        figure.savefig(path, metadata={"Date": None})
    return words if panels > 1 else ""


def _over_steps(axis: Axes, sick: History, well: History, statistic: str, step: int) -> None:
    """A statistic of the run, or the median of the weights'; the loss together with the validation loss."""
    heights = [np.zeros(0)]
    for history, (colour, name) in ((sick, SICK), (well, WELL)):
        for series, style, label in ((statistic, "-", name), ("val_loss", "--", f"{name}, validation")):
            if series == "val_loss" and statistic != "loss":
                continue
            table = history.table(series)
            finite = np.isfinite(table.values).any(1)
            if not finite.any():
                continue
            steps, values = _thinned(table.steps[finite], np.nanmedian(table.values[finite].astype(float), axis=1))
            marker = "o" if len(steps) <= FEW else ""
            axis.plot(steps, values, style, marker=marker, markersize=4, color=colour, linewidth=1.2, label=label)
            heights.append(values[np.isfinite(values)])
    together = np.concatenate(heights)
    if len(together) and together.min() > 0 and together.max() / together.min() > 50:
        axis.set_yscale("log")
        axis.minorticks_off()
    axis.axvline(step, color="black", linestyle=":", linewidth=1)
    axis.set_xlabel("step")
    axis.set_ylabel("loss" if statistic == "loss" else titled(statistic))
    axis.legend(fontsize=7, frameon=False)


def _moves(axis: Axes, sick: History, well: History, step: int) -> None:
    """How far the inputs of the weight layers move between samples, in units of their spread."""
    for history, (colour, name) in ((sick, SICK), (well, WELL)):
        means, stds = history.table("input_mean"), history.table("input_std")
        weighted = {layer.name for layer in history.facts.layers if layer.kind in ("linear", "conv")}
        columns = [i for i, column in enumerate(means.columns) if column in weighted]
        moves = np.abs(np.diff(means.values[:, columns].astype(float), axis=0)) / np.median(stds.values[:, columns], 0)
        axis.plot(means.steps[1:], np.median(moves, axis=1), color=colour, linewidth=1.2, label=name)
    axis.axvline(step, color="black", linestyle=":", linewidth=1)
    axis.set_xlabel("step")
    axis.set_ylabel("change of the inputs, in std")
    axis.legend(fontsize=7, frameon=False)


def _thinned(steps: NDArray[np.int64], values: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Means of groups of neighbours where there are too many points."""
    size = -(-len(steps) // POINTS) or 1
    whole = len(steps) // size * size
    return steps[:whole].reshape(-1, size)[:, -1], values[:whole].reshape(-1, size).mean(1)


def _by_layer(left: Axes, right: Axes, sick: History, well: History, statistic: str, step: int, ill: set[str]) -> None:
    """The layers in their order, as sampled at the step or next after it."""
    seen = [_at(history, statistic, step) for history in (sick, well)]
    together = np.concatenate([values for _, _, values in seen])
    log = scale(statistic, together.astype(np.float32)) == "log" and bool((together > 0).all())
    for axis, (names, owners, values), (colour, _) in zip((left, right), seen, (SICK, WELL), strict=True):
        places = np.arange(len(names))
        marked = np.array([axis is left and owner in ill for owner in owners], dtype=bool)
        axis.plot(places, values, "-", color=colour, linewidth=1)
        axis.plot(places[~marked], values[~marked], "o", markersize=3, color=colour)
        axis.plot(places[marked], values[marked], "D", markersize=4.5, color=colour)
        if log:
            axis.set_yscale("log")
            axis.minorticks_off()
        stride = -(-len(names) // LABELS) or 1
        axis.set_xticks(places[::stride], names[::stride], rotation=60, ha="right", fontsize=6)


def _at(history: History, statistic: str, step: int) -> tuple[list[str], list[str], Floats]:
    """Names of the rows, their layers, and the values; weights only where the statistic is one of parameters."""
    table, facts = history.table(statistic), history.facts
    order = {layer.name: place for place, layer in enumerate(facts.layers)}
    owner = {name: name for name in table.columns} | {p.name: p.layer for p in facts.parameters}
    columns = list(range(len(table.columns)))
    if site_of(statistic, table, facts) == "parameter":
        weights = {p.name for p in facts.parameters if p.role == "weight"}
        columns = [i for i in columns if table.columns[i] in weights] or columns
    columns.sort(key=lambda i: order.get(owner[table.columns[i]], len(order)))
    rows = np.flatnonzero(np.isfinite(table.values[:, columns]).any(1))
    row = rows[min(int(np.searchsorted(table.steps[rows], step)), len(rows) - 1)]
    columns = [i for i in columns if np.isfinite(table.values[row, i])]
    names = [table.columns[i] for i in columns]
    return (
        [name or "(whole)" for name in names],
        [owner[name] for name in names],
        table.values[row, columns].astype(float),
    )
