"""The gradient of the whole model over the steps: its norm before and after clipping, and whether it keeps course."""

from __future__ import annotations

import numpy as np

from netdoctor.history import History
from netdoctor.reporters.html.figures.base import Figure, course, drawn_run, spaced_out
from netdoctor.reporters.html.numbers import counted, share

CUT = 0.99  # of the norm: less is left where clipping was at work, up to rounding


def gradient_norms(history: History) -> Figure | None:
    steps, before = history.series("gradient_norm")
    whole = drawn_run(history, "gradient_norm", "norm")
    if whole is None:
        return None
    lines, words = [whole], [course("Gradient norm", steps, before)]
    after_steps, after = history.series("clipped_gradient_norm")
    both, first, second = np.intersect1d(steps, after_steps, return_indices=True)
    cut = after[second] < CUT * before[first]
    caption = "Norm of all gradients in each sampled step"
    clipped = drawn_run(history, "clipped_gradient_norm", "after clipping", "after") if cut.any() else None
    if clipped is not None:
        whole |= {"name": "before clipping", "style": "before"}
        lines.append(clipped)
        words.append(f"Clipping was at work in {share(float(cut.mean()))} of {counted(len(both), 'sampled step')}.")
        caption += ", before and after clipping"
    elif len(both):
        words.append("Clipping was not at work.")
        caption += "; clipping was not at work"
    data = {"x": "step", "log": bool((before > 0).any()), "logx": spaced_out(steps), "lines": lines}
    return Figure("gradient-norm", "lines", "Gradient norm", f"{caption}.", " ".join(words), data)


def gradient_cosines(history: History) -> Figure | None:
    steps, values = history.series("cosine")
    drawn = drawn_run(history, "cosine", "cosine", "1")
    if drawn is None:
        return None
    data = {
        "x": "step",
        "logx": spaced_out(steps),
        "lines": [{**drawn, "points": len(steps) < 40}],
        "guides": [{"y": 0.0, "label": ""}],
        "range": [-1, 1],
    }
    caption = (
        "Cosine between the gradients of successive steps. Where it stays high, steps go the same way and could be "
        "larger; well below 0 they overshoot; near 0 the noise of the batches decides."
    )
    summary = course("Cosine of successive gradients", steps, values)
    return Figure("cosine", "lines", "Agreement of gradients", caption, summary, data)
