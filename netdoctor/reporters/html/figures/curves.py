"""Whatever else is known of the run by step: the user's own metrics, and statistics without a picture of their own."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.history import History
from netdoctor.reporters.html.figures.base import Figure, course, decades, drawn_run, spaced_out
from netdoctor.reporters.html.naming import described, titled

DRAWN = {"loss", "val_loss", "constant_loss", "gradient_norm", "clipped_gradient_norm", "cosine", "learning_rate"}
INDICATORS = "non_finite"  # what begins so is 0 or 1 and stands in other pictures
MOST = 24  # pictures: who logs more has a tracker


def other_curves(history: History) -> Iterator[Figure]:
    rest = [name for name in history.statistics if name not in DRAWN and not name.startswith(INDICATORS)]
    curves = [name for name in rest if history.table(name).columns == ("",)]
    for number, name in enumerate(curves[:MOST], 1):
        drawn = drawn_run(history, name, titled(name))
        if drawn is None:
            continue
        steps, values = history.series(name)
        data = {
            "x": "step",
            "lines": [{**drawn, "points": len(steps) < 60}],
            "log": bool(values.min() > 0) and decades(values) > 2,
            "logx": spaced_out(steps),
        }
        caption = described(name) or "Given by monitor.observe."
        yield Figure(f"curve-{number}", "lines", titled(name), caption, course(titled(name), steps, values), data)
