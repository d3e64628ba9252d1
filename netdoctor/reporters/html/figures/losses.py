"""The loss over the steps: training, validation with its best pass, and what a constant prediction would lose."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from netdoctor.history import History
from netdoctor.reporters.html.figures.base import Figure, course, decades, line
from netdoctor.reporters.html.numbers import spelled

SMOOTHED = 100  # losses from which a moving mean is drawn beside them
WIDTH = 30  # the moving mean spans this part of the run
MARKS = 200  # steps with a NaN or Inf that are marked at most


def losses(history: History) -> Figure | None:
    steps, values = history.series("loss")
    val_steps, val_values = history.series("val_loss")
    constant_steps, constants = history.series("constant_loss")
    broken = _broken(history)
    if not len(steps) and not len(val_steps) and not broken:
        return None
    lines: list[dict[str, Any]] = []
    words: list[str] = []
    if len(steps):
        lines.append(line("training", steps, values, "train", points=len(steps) < 30))
        words.append(course("Training loss", steps, values))
    if len(steps) >= SMOOTHED:
        lines[-1]["faint"] = True
        width = len(steps) // WIDTH | 1
        lines.append(line("training, moving mean", steps, moving_mean(values, width), "smooth"))
    marks: list[dict[str, Any]] = []
    if len(val_steps):
        lines.append(line("validation", val_steps, val_values, "validation", points=len(val_steps) <= 60))
        best = int(np.argmin(val_values))
        label = f"best validation {spelled(float(val_values[best]))}, step {val_steps[best]}"
        marks.append({"x": int(val_steps[best]), "y": float(f"{val_values[best]:.5g}"), "label": label})
        words.append(course("Validation loss", val_steps, val_values))
        words.append(f"Best validation pass: step {val_steps[best]}.")
    if len(constants):
        end = max(history.step, int(constant_steps[-1]))
        lines.append(line("best constant prediction", [*constant_steps, end], [*constants, constants[-1]], "reference"))
        words.append(f"The best constant prediction would lose {spelled(float(constants[-1]))}.")
    if broken:
        words.append(f"The loss was NaN or Inf in {len(broken)} of the drawn steps, first at step {broken[0]}.")
    positive = [value for each in lines for value in each["y"] if value is not None]
    caption = "Loss of each step" + (" and its moving mean" if len(steps) >= SMOOTHED else "")
    caption += ", the validation passes and the best of them" if len(val_steps) else ""
    caption += ". The dashed line is what a model that always predicts the same would lose" if len(constants) else ""
    data = {
        "x": "step",
        "lines": lines,
        "marks": marks,
        "broken": broken,
        "log": bool(positive) and min(positive) > 0 and decades(positive) > 2,
    }
    return Figure("loss", "lines", "Loss", f"{caption}.", " ".join(words), data, wide=True)


def moving_mean(values: NDArray[np.float32], width: int) -> NDArray[np.float64]:
    """Mean over ``width`` readings around each, over fewer at both ends."""
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    places = np.arange(len(values))
    start, end = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    return np.asarray((sums[end] - sums[start]) / (end - start))


def _broken(history: History) -> list[int]:
    """Steps whose loss was NaN or Inf."""
    table = history.table("loss")
    steps = table.steps[~np.isfinite(table.values).all(1)] if len(table) else np.zeros(0, np.int64)
    flagged, flags = history.series("non_finite_loss")
    every = np.union1d(steps, flagged[flags > 0])
    return [int(step) for step in every[:: max(1, -(-len(every) // MARKS))]]
