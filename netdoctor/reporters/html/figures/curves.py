"""Whatever else is known of the run by step: the user's own metrics, and statistics without a picture of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.history import History
from netdoctor.reporters.html.figures.base import Figure, course, decades, drawn_run, spaced_out
from netdoctor.reporters.html.naming import described, titled
from netdoctor.statistics import STATISTICS

DRAWN = {"loss", "val_loss", "constant_loss", "gradient_norm", "clipped_gradient_norm", "cosine", "learning_rate"}
INDICATORS = "non_finite"  # what begins so is 0 or 1 and stands in other pictures
MOST = 24  # pictures: who logs more has a tracker
TOGETHER = {
    "Share of right predictions": ("accuracy", "val_accuracy"),
    "Range of targets and outputs": ("target_low", "target_high", "output_low", "output_high"),
    "Mean and spread of the targets": ("target_mean", "target_std", "target_rms"),
    "Shares of the classes": ("largest_class_share", "smallest_class_share", "largest_predicted_share"),
    "Most frequent class of a batch": ("batch_class_share",),
    "The model's input": ("model_input_mean", "model_input_std", "val_input_mean", "val_input_std"),
}  # in one picture


def other_curves(history: History) -> Iterator[Figure]:
    rest = [name for name in history.statistics if name not in DRAWN and not name.startswith(INDICATORS)]
    single = [name for name in rest if history.table(name).columns == ("",)]
    grouped = {name for names in TOGETHER.values() for name in names}
    own = [name for name in single if name not in STATISTICS]
    ours = [name for name in single if name in STATISTICS and name not in grouped and _varies(history, name)]
    pictures = [
        *((titled(name), (name,)) for name in own),
        *TOGETHER.items(),
        *((titled(name), (name,)) for name in ours),
    ]
    number = 0
    for title, names in pictures:
        lines = [drawn_run(history, name, titled(name), str(style)) for style, name in enumerate(names, 1)]
        drawn = [line for line in lines if line is not None]
        if drawn and number < MOST:
            number += 1
            yield _figure(history, number, title, [name for name in names if name in history.statistics], drawn)


def _figure(history: History, number: int, title: str, names: list[str], lines: list[dict[str, object]]) -> Figure:
    every = [history.series(name) for name in names]
    values = np.concatenate([series for _, series in every])
    data = {
        "x": "step",
        "lines": [{**line, "points": len(every[0][0]) < 60} for line in lines],
        "log": bool(values.min() > 0) and decades(values) > 2,
        "logx": spaced_out(every[0][0]),
    }
    caption = " ".join(described(name) for name in names).strip() or "Given by monitor.observe."
    summary = " ".join(
        course(titled(name), *series) for name, series in zip(names, every, strict=True) if len(series[0])
    )
    return Figure(f"curve-{number}", "lines", title, caption, summary, data)


def _varies(history: History, name: str) -> bool:
    """What stays what it was from the first step on shows nothing."""
    values = history.series(name)[1]
    return len(values) > 1 and bool(np.ptp(values) > 0)
