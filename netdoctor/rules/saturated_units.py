"""Bounded hidden units pressed against their bounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor import remedies
from netdoctor.facts import WEIGHTED, Facts, Layer
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress, weight_updates
from netdoctor.rules.base import rule

BOUNDED = ("tanh", "sigmoid", "softsign")  # both sides end in slope 0; hardtanh may be a ReLU6, whose 0 is meant
BEGINNING = 5  # samples that count as the start


@rule(Severity.WARNING, explains=("covariate-shift", "loss-plateau", "not-learning"))
def saturated_units(
    history: History,
    *,
    start: float = 0.75,  # of the outputs in the first samples; tanh weights 10x too large (0.73) still train well
    persistent: float = 0.5,  # of the outputs, where training stalls; healthy at the start: 0.2, digits as 0 … 16: 0.63
    samples: int = 5,  # readings that are averaged
    oversized: float = 1.5,  # weight std over the one that keeps the variance
    update: float = 0.1,  # of a weight's norm in a step: such steps drive units into saturation
) -> Iterator[Evidence | Skipped]:
    """Hidden tanh or sigmoid units sit at their bounds, where the slope and so the gradient is almost 0.

    ## What it looks at
    The share of outputs within 3 % of the bound in hidden layers: neither the output layer, nor gates, nor what is
    multiplied with or added to another path. It speaks at three quarters in the first samples, and at half where
    training stalls; never where the loss shows that the model has learned.

    ## Why it matters
    At 97 % of its bound tanh passes 6 % of a gradient, a sigmoid 3 % of its input's change: a few such layers pass
    nothing.

    ## When it is wrong
    Nets also learn with saturated units (an autoencoder's bottleneck: 72 %), more slowly. Gates are meant to saturate;
    those inside LSTM and GRU are not seen, and gates made of single layers are left out by their multiplication.

    ## References
    Glorot & Bengio 2010, section 3. Karpathy, makemore part 3 (|tanh| > 0.97). SageMaker Debugger, SaturatedActivation.
    """
    hidden = [layer.name for layer in _hidden(history.facts)]
    if not hidden:
        return
    table = history.table("saturated_share")
    places = [table.columns.index(name) for name in hidden if name in table.columns]
    rows = table.values[-samples:, places].astype(float)
    if not len(rows) or not np.isfinite(rows).any():
        yield Skipped("no activations measured yet")
        return
    course = progress(history)
    if course is not None and course.learned:
        return
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(np.where(np.isfinite(rows), rows, np.nan).mean(0))
    stalled = course is not None and course.stalled
    early = len(table) <= BEGINNING or (table.stride == 1 and bool(_ill(table.values[:BEGINNING, places], start).any()))
    if not stalled and len(rows) < 3:
        yield Skipped("fewer than 3 samples")
        return
    bound = persistent if stalled else start
    ill = shares >= bound
    if not ill.any() or not (stalled or early):
        return
    found = {table.columns[place]: float(share) for place, share, bad in zip(places, shares, ill, strict=True) if bad}
    first = next(iter(found))
    large = _oversized(history, list(found), oversized)
    text = f"{found[first]:.0%} of the outputs of {first}" + (f" (and {len(found) - 1} more layers)" if found[first:] else "")
    yield Evidence(
        message=text,
        layers=tuple(found),
        readings=tuple(Reading(f"saturated share of {name}", share, bound) for name, share in found.items()),
        confidence=0.85 if stalled or large else 0.7,
        remedies=_remedies(history, list(found), large, update),
    )
