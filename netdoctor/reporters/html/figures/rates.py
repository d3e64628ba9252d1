"""The learning rate of every param group over the steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from netdoctor.history import History
from netdoctor.reporters.html.figures.base import POINTS, Figure, course, decades, groups, line, spaced_out
from netdoctor.reporters.html.numbers import counted

FEW = 8  # groups that are drawn: as many colours can be told apart


def learning_rates(history: History) -> Figure | None:
    table = history.table("learning_rate")
    lines: list[dict[str, Any]] = []
    words: list[str] = []
    same = len(table.columns) > 1 and bool(np.ptp(np.nan_to_num(table.values), axis=1).max(initial=0) == 0)
    columns = table.columns[:1] if same else table.columns[:FEW]
    for place, column in enumerate(columns):
        steps, values = history.series("learning_rate", column)
        if not len(steps):
            continue
        name = "learning rate" if len(columns) == 1 else f"group {column}"
        rows = groups(len(steps), POINTS)
        lines.append(line(name, steps[rows], values[rows], str(place + 1), points=len(steps) < 40))
        words.append(course(name.capitalize(), steps, values))
    if not lines:
        return None
    positive = [value for each in lines for value in each["y"] if value]
    data = {"x": "step", "logx": spaced_out(table.steps), "lines": lines, "log": decades(positive) > 1.5}
    several = len(table.columns)
    caption = "Learning rate in each sampled step"
    if same:
        caption += f", the same in {several} param groups"
    elif several > FEW:
        caption += f", the first {FEW} of {several} param groups"
    elif several > 1:
        caption += f" of {counted(several, 'param group')}"
    return Figure("learning-rate", "lines", "Learning rate", f"{caption}.", " ".join(words), data)
