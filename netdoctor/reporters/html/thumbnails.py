"""The small picture in a finding's card: the numbers that its rule looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from netdoctor.findings import Finding
from netdoctor.history import History
from netdoctor.reporters.html.embed import plain
from netdoctor.reporters.html.figures.base import decades, drawn_run, groups
from netdoctor.reporters.html.figures.updates import GUIDE
from netdoctor.reporters.html.naming import described, layer_named, site_of, titled

SMALL = 160  # points of a line
OF_THE_LOSS = (("loss", "training", "train"), ("val_loss", "validation", "validation"))


def span(finding: Finding) -> list[int] | None:
    """First and last step of the readings, None where they do not say."""
    spans = [reading.steps for reading in finding.readings if reading.steps != (0, 0)]
    return [min(first for first, _ in spans), max(last for _, last in spans)] if spans else None


def over_layers(finding: Finding, history: History, statistic: str, first: bool) -> dict[str, Any]:
    """The statistic by layer in one sample, the finding's layers marked."""
    table, facts = history.table(statistic), history.facts
    places = {layer.name: place for place, layer in enumerate(facts.layers)}
    owners = {name: name for name in table.columns}
    chosen = list(range(len(table.columns)))
    if site_of(statistic, table, facts) == "parameter":
        roles = {p.name: p.role for p in facts.parameters}
        owners |= {p.name: p.layer for p in facts.parameters}
        chosen = [i for i in chosen if roles.get(table.columns[i], "weight") == "weight"] or chosen
    chosen.sort(key=lambda i: places.get(owners[table.columns[i]], len(places)))
    seen = np.flatnonzero(np.isfinite(table.values[:, chosen]).any(1))
    row = seen[0 if first else -1] if len(seen) else 0
    ill = set(finding.layers)
    values = table.values[row, chosen]
    positive = values[np.isfinite(values) & (values > 0)]
    return {
        "x": "layer",
        "names": [layer_named(table.columns[i]) for i in chosen],
        "lines": [{"name": titled(statistic), "x": list(range(len(chosen))), "y": plain(values), "style": "1",
                   "points": True, "marked": [n for n, i in enumerate(chosen) if owners[table.columns[i]] in ill]}],
        "log": len(positive) > 1 and decades(values) > 1,
        "title": f"{titled(statistic)} by layer, step {table.steps[row]:,}",
        "step": int(table.steps[row]),
        "describe": described(statistic),
    }  # fmt: skip


def over_weights(finding: Finding, history: History) -> dict[str, Any]:
    """Median update ratio over the steps."""
    table = history.table("update_ratio")
    values = np.where(np.isfinite(table.values) & (table.values > 0), table.values, np.nan).astype(float)
    seen = np.isfinite(values).any(1)
    steps, middle = table.steps[seen], np.nanmedian(values[seen], axis=1)
    rows = groups(len(steps), SMALL)
    return {
        "x": "step",
        "log": True,
        "lines": [{"name": "median", "x": steps[rows].tolist(), "y": plain(middle[rows]), "style": "1"}],
        "guides": [{"y": GUIDE, "label": "10⁻³"}],
        "span": span(finding),
        "title": "Update over weight, median of the weights",
        "describe": described("update_ratio"),
    }


def over_run(finding: Finding, history: History, statistic: str) -> dict[str, Any]:
    """A statistic of the run over the steps; the loss together with the validation loss."""
    wanted = OF_THE_LOSS if statistic == "loss" else ((statistic, titled(statistic), "1"),)
    lines = [drawn for name, label, style in wanted if (drawn := drawn_run(history, name, label, style)) is not None]
    for each in lines:
        rows = groups(len(each["x"]), SMALL)
        each["x"], each["y"] = [each["x"][i] for i in rows], [each["y"][i] for i in rows]
    guides = [{"y": value, "label": "constant"} for value in history.series("constant_loss")[1][-1:].tolist()]
    heights = [value for each in lines for value in each["y"] if value is not None]
    return {
        "x": "step",
        "lines": lines,
        "guides": guides if statistic == "loss" else [],
        "log": bool(heights) and min(heights) > 0 and decades(heights) > 2,
        "span": span(finding),
        "title": titled(statistic),
        "describe": described(statistic),
    }
