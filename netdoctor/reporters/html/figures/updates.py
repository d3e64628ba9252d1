"""How large the steps are against the weights: the update ratio of every weight over the steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from netdoctor.history import History
from netdoctor.reporters.html.embed import plain
from netdoctor.reporters.html.figures.base import POINTS, Figure, groups, line, spaced_out
from netdoctor.reporters.html.numbers import counted, spelled

GUIDE = 1e-3  # of the weight: the rule of thumb for SGD (Karpathy, CS231n); measured: healthy programs 2.4e-4 … 1e-1
FEW = 8  # weights that are drawn one by one: as many colours can be told apart
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def update_ratios(history: History) -> Figure | None:
    table = history.table("update_ratio")
    roles = {parameter.name: parameter.role for parameter in history.facts.parameters}
    began = history.first("weight_rms")
    chosen = [
        place
        for place, name in enumerate(table.columns)
        if roles.get(name, "weight") == "weight" and began.get(name, 1.0) > 0
    ]
    rows = groups(len(table), POINTS)
    values = table.values[rows][:, chosen].astype(float)
    values[~np.isfinite(values) | (values <= 0)] = np.nan
    seen = np.isfinite(values).any(1)
    if not seen.any():
        return None
    steps, values = table.steps[rows][seen], values[seen]
    levels = np.nanquantile(values, QUARTERS, axis=1)
    data: dict[str, Any] = {
        "x": "step",
        "log": True,
        "logx": spaced_out(steps),
        "guides": [{"y": GUIDE, "label": "10⁻³"}],
        "unit": "update / weight",
    }
    if len(chosen) <= FEW:
        names = [table.columns[place] for place in chosen]
        data["lines"] = [line(n, steps, values[:, i], str(i + 1), points=len(steps) < 40) for i, n in enumerate(names)]
        caption = "Norm of each step's update over the norm of the weight, by weight."
    else:
        data["bands"] = [
            {"name": "all weights", "x": steps.tolist(), "low": plain(levels[0]), "high": plain(levels[4])},
            {"name": "middle half", "x": steps.tolist(), "low": plain(levels[1]), "high": plain(levels[3])},
        ]
        data["lines"] = [line("median", steps, levels[2], "1", points=len(steps) < 40)]
        caption = f"Norm of each step's update over the norm of the weight: median and spread of {len(chosen)} weights."
    summary = (
        f"{counted(len(chosen), 'weight')}. Median update over weight: {spelled(float(levels[2, 0]))} at step "
        f"{steps[0]}, {spelled(float(levels[2, -1]))} at step {steps[-1]}; over all weights and steps from "
        f"{spelled(float(levels[0].min()))} to {spelled(float(levels[4].max()))}."
    )
    caption += " About 10⁻³ is usual (dashed); a tenth of that is slow, a hundred times that tears the weights about."
    return Figure("updates", "lines", "Size of the steps", caption, summary, data)
