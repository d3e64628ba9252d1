"""Draws a sick run of the clinic beside its healthy twin for each rule: ``python -m docs.make.pictures [SLUG ...]``.

Each picture goes to ``docs/rules/pictures/SLUG.svg``, and what was found in its run to ``runs.json`` beside it. Run it
when a rule or a case changes what is seen; all pictures take some minutes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import netdoctor
from docs.make.rule_pages import PICTURES, recorded
from netdoctor.reporters.html.evidence import PICTURES as EVIDENCE
from netdoctor.reporters.html.figures.layers_by_steps import drawable, scale
from netdoctor.reporters.html.naming import described, site_of, titled
from netdoctor.rules import ALL
from tests.clinic.case import Case
from tests.clinic.catalogue import cases
from tests.clinic.examination import TURN_SECONDS
from tests.clinic.pool import each

SICK, WELL = "#c0392b", "#1e8449"
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "netdoctor",
}
POINTS = 150  # of a line at most
LABELS = 16  # names of layers below an axis at most


@dataclass(frozen=True)
class Seen:
    """One watched run: the numbers, and the finding of the disease (None in the twin)."""

    history: netdoctor.History
    finding: netdoctor.Finding | None


def watched(case: Case, slug: str, fault: bool) -> Seen:
    """Run a case to its end as the clinic does."""
    torch.manual_seed(0)
    program, turn = case.build(fault), 0
    with netdoctor.watch(program.model, reporters=[]) as monitor:
        monitor._schedule.clock = lambda: perf_counter() + TURN_SECONDS * turn
        for turn in range(1, case.steps + 1):
            program.step(turn)
    every = [(finding, *finding.symptoms) for finding in monitor.findings]
    named = [finding for group in every for finding in group if finding.rule == slug]
    return Seen(monitor.history, named[0] if named else None)


def shown(slug: str) -> dict[str, Any] | None:
    """Draw the first case of the disease in which it is found; what was found, None where there is no such case."""
    own = [case for case in cases("sick").values() if slug in case.causes]
    for case in sorted(own, key=lambda case: case.causes.index(slug)):
        sick = watched(case, slug, fault=True)
        if sick.finding is not None:
            by_layer = draw(sick, watched(case, slug, fault=False), PICTURES / f"{slug}.svg")
            found = {"case": case.name, "step": sick.finding.step, "message": sick.finding.message}
            return found | {"by_layer": by_layer}
    return None


def draw(sick: Seen, well: Seen, path: Path) -> str:
    """The losses of both runs, and the numbers that the rule looked at.

    Returns:
        What is drawn by layer, "" where nothing is.
    """
    finding = sick.finding
    assert finding is not None
    statistic, when = EVIDENCE.get(finding.rule, ("loss", "run"))
    by_layer = when != "run" and all(drawable(seen.history, statistic) for seen in (sick, well))
    with mpl.rc_context(STYLE):
        panels = 3 if by_layer else 1 if statistic == "loss" or when != "run" else 2
        figure = Figure(figsize=(9, 2.8) if panels > 1 else (6, 2.8), layout="constrained")
        axes: list[Axes] = list(figure.subplots(1, panels, squeeze=False)[0])
        _over_steps(axes[0], sick, well, "loss")
        if panels == 2:
            _over_steps(axes[1], sick, well, statistic)
        elif panels == 3:
            axes[2].sharey(axes[1])
            for place, seen, colour, name in ((1, sick, SICK, "with the fault"), (2, well, WELL, "without it")):
                step = 0 if when == "first" else finding.step
                _over_layers(axes[place], seen.history, statistic, step, colour, set(finding.layers))
                axes[place].set_title(name, color=colour)
            axes[1].set_ylabel(titled(statistic))
        figure.savefig(path, metadata={"Date": None})
    return described(statistic) or titled(statistic) if by_layer else ""


def _over_steps(axis: Axes, sick: Seen, well: Seen, statistic: str) -> None:
    heights = []
    for seen, colour, name in ((sick, SICK, "with the fault"), (well, WELL, "without it")):
        for series, style, label in ((statistic, "-", name), ("val_loss", "--", f"{name}, validation")):
            if series == "val_loss" and statistic != "loss":
                continue
            steps, values = _line(seen.history, series)
            if len(steps):
                axis.plot(steps, values, style, color=colour, linewidth=1.2, label=label)
                heights.append(values[np.isfinite(values)])
    together = np.concatenate(heights) if heights else np.zeros(0)
    if len(together) and together.min() > 0 and together.max() / together.min() > 50:
        axis.set_yscale("log")
    assert sick.finding is not None
    axis.axvline(sick.finding.step, color="black", linestyle=":", linewidth=1)
    axis.set_xlabel("step")
    axis.set_ylabel("loss" if statistic == "loss" else titled(statistic))
    axis.legend(fontsize=7, frameon=False)


def _line(history: netdoctor.History, statistic: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The statistic over the steps, the median where it has a value for each weight; means of what is too dense."""
    table = history.table(statistic)
    values = table.values.astype(float)
    finite = np.isfinite(values).any(1)
    steps, values = table.steps[finite], np.nanmedian(values[finite], axis=1) if finite.any() else np.zeros(0)
    size = -(-len(steps) // POINTS) or 1
    whole = len(steps) // size * size
    return steps[:whole].reshape(-1, size)[:, -1], values[:whole].reshape(-1, size).mean(1)


def _over_layers(axis: Axes, history: netdoctor.History, statistic: str, step: int, colour: str, ill: set[str]) -> None:
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
    values = table.values[row, columns].astype(float)
    places = np.arange(len(columns))
    names = [table.columns[i] or "(whole)" for i in columns]
    axis.plot(places, values, "-", color=colour, linewidth=1)
    marked = np.array([owner[table.columns[i]] in ill for i in columns])
    axis.plot(places[~marked], values[~marked], "o", markersize=3, color=colour)
    axis.plot(places[marked], values[marked], "D", markersize=4.5, color=colour)
    if scale(statistic, values.astype(np.float32)) == "log" and (values[np.isfinite(values)] > 0).all():
        axis.set_yscale("log")
    stride = -(-len(names) // LABELS)
    axis.set_xticks(places[::stride], names[::stride], rotation=60, ha="right", fontsize=6)


def main() -> None:
    """Draw the pictures of the rules named on the command line, or of all."""
    slugs = sys.argv[1:] or [rule.slug for rule in ALL]
    PICTURES.mkdir(exist_ok=True, parents=True)
    runs = recorded() if (PICTURES / "runs.json").exists() else {}
    for slug, run in each(shown, slugs):
        print(f"{slug}: {run['message'] if run else 'no case'}", flush=True)
        if run is not None:
            runs[slug] = run
    text = json.dumps(dict(sorted(runs.items())), indent=1, ensure_ascii=False)
    (PICTURES / "runs.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
