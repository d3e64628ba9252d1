"""What a picture of the page is: a title, words for those who do not see it, and the data that the page draws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netdoctor.history import History
from netdoctor.reporters.html.embed import plain
from netdoctor.reporters.html.numbers import spelled

POINTS = 400  # of a line that is sampled: more than pixels across on most pages
FIRST = 24  # samples that keep their own place: the start of a run is sampled densely and tells most


@dataclass(frozen=True)
class Figure:
    """One picture.

    Attributes:
        name: Its anchor on the page is "figure-" and this.
        kind: What draws it: lines over steps, a map of layers and steps, distributions by layer.
        title: What it shows, a few words.
        caption: How to read it.
        summary: The same in numbers, for those who do not see it.
        data: What the page's script draws from.
        wide: Whether it takes the whole width of the page.
    """

    name: str
    kind: Literal["lines", "map", "distributions"]
    title: str
    caption: str
    summary: str
    data: dict[str, Any]
    wide: bool = False


def line(name: str, steps: Iterable[int], values: Iterable[float], style: str = "1", **more: Any) -> dict[str, Any]:
    """One line of a picture; ``style`` is a colour's number or train, smooth, validation, reference, before, after."""
    return {"name": name, "x": [int(step) for step in steps], "y": plain(values), "style": style, **more}


def groups(rows: int, most: int, first: int = FIRST) -> NDArray[np.int64]:
    """Where each of at most ``most`` groups of rows starts: the ``first`` rows alone, the others evenly."""
    if rows <= most:
        return np.arange(rows)
    first = min(first, most // 2)
    rest = first + (np.arange(most - first) * (rows - first)) // (most - first)
    return np.concatenate((np.arange(first), rest))


def drawn_run(history: History, statistic: str, name: str, style: str = "1") -> dict[str, Any] | None:
    """The line of a statistic of the run, None where it has no finite reading."""
    steps, values = history.series(statistic)
    if not len(steps):
        return None
    rows = groups(len(steps), POINTS)
    return line(name, steps[rows], values[rows], style)


def course(what: str, steps: NDArray[np.int64], values: NDArray[np.float32]) -> str:
    """A line in words: where it starts, ends, and how far it went."""
    if len(steps) == 1:
        return f"{what} {spelled(float(values[0]))} at step {steps[0]}."
    text = f"{what} {spelled(float(values[0]))} at step {steps[0]}, {spelled(float(values[-1]))} at step {steps[-1]}"
    low, high = float(values.min()), float(values.max())
    return f"{text}; lowest {spelled(low)}, highest {spelled(high)}."


def spaced_out(steps: NDArray[np.int64]) -> bool:
    """Whether the steps lie so unevenly that a logarithmic axis shows more of them."""
    return len(steps) > 8 and float(np.median(steps)) < 0.2 * float(steps[-1])


def decades(values: Iterable[float]) -> float:
    """How many powers of ten the positive values span."""
    array = np.asarray(values, float)
    array = array[np.isfinite(array) & (array > 0)]
    return float(np.log10(array.max() / array.min())) if len(array) else 0.0
