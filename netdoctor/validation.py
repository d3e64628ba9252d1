"""How validation differs from training: what each gained, the inputs, and what batch norms hold for evaluation."""

from __future__ import annotations

import itertools

import numpy as np

from netdoctor import wiring
from netdoctor.facts import spoken
from netdoctor.findings import Reading
from netdoctor.history import History

FEWEST = 3  # losses in half a pass
Cause = tuple[str, tuple[str, ...], tuple[Reading, ...]]  # what differs, in which layers, with which numbers


def gains(history: History, reference: float, window: int) -> list[tuple[int, float, float]]:
    """Of each validation pass: step, and the gain of training and of validation over a constant prediction."""
    when, losses = history.series("loss")
    steps, values = history.series("val_loss")
    own = dict(zip(*(each.tolist() for each in history.series("val_constant_loss")), strict=True))
    found = []
    for step, value in zip(steps.tolist(), values.tolist(), strict=True):
        constant = own.get(step)
        end = int(np.searchsorted(when, step, side="right"))
        before = losses[max(0, end - window) : end]
        if constant is not None and constant > 0 and len(before) >= window // 2 and reference > 0:
            found.append((step, 1 - float(before.mean()) / reference, 1 - value / constant))
    return found


def pass_steps(history: History) -> float | None:
    """Steps that one pass over the training data takes, where samples were known again."""
    known = history.series("pass_steps")[1]
    return float(known[-1]) if len(known) else None


def unseen_gain(history: History, reference: float, pass_steps: float) -> tuple[float, float] | None:
    """What training gained over a constant prediction and cannot have by heart, and its standard error.

    That is what it gained in the last half of the first pass, where all samples are new, and by how much more in the
    last half of the second one than in the first: there, each was seen once before. None where the losses that are
    kept do not tell of it.
    """
    when, losses = history.series("loss")
    places = [int(np.searchsorted(when, share * pass_steps, side="right")) for share in (0.5, 1.0, 1.5, 2.0)]
    parts = [losses[start:end].astype(float) / reference for start, end in itertools.pairwise(places)]
    if min(map(len, parts)) < FEWEST or reference <= 0:
        return None
    new, before, after = (float(part.mean()) for part in parts)
    spread = [float(part.var(ddof=1)) / len(part) for part in parts]
    further = max(before - after, 0.0)
    return 1 - new + further, (spread[0] + (spread[1] + spread[2] if further else 0.0)) ** 0.5


def input_shift(history: History, moved: float, scaled: float) -> Cause | None:
    """How the model's input in validation differs from that in training."""
    names = ("model_input_mean", "model_input_std", "val_input_mean", "val_input_std")
    mean, std, val_mean, val_std = (float(np.median(v)) if len(v := history.series(n)[1]) else np.nan for n in names)
    if not std > 0 or not val_std > 0:
        return None
    distance, factor = abs(val_mean - mean) / std, max(val_std / std, std / val_std)
    if distance <= moved and factor <= scaled:
        return None
    return (
        f"the input has mean {val_mean:.3g} and standard deviation {val_std:.3g} in validation, {mean:.3g} and "
        f"{std:.3g} in training",
        (),
        (
            Reading("distance of the inputs' means, in standard deviations", distance, moved),
            Reading("factor between their standard deviations", factor, scaled),
        ),
    )


def stale_norms(history: History, stale: float) -> Cause | None:
    """Batch norms whose gathered statistics are not those that they see."""
    means, stds = history.latest("running_mean"), history.latest("running_std")
    tables = history.table("input_mean"), history.table("input_std")
    off = wiring.switched_off(history)
    found: dict[str, tuple[float, float, float, float]] = {}
    for layer in history.facts.layers:
        if layer.name not in means or layer.name in off or any(layer.name not in t.columns for t in tables):
            continue
        mean, std = (float(np.median(t.values[-5:, t.place[layer.name]])) for t in tables)
        held = stds[layer.name]
        if std > 0 and held > 0:
            distance, factor = abs(means[layer.name] - mean) / std, max(held / std, std / held)
            if max(distance, np.log(factor)) > stale:
                found[layer.name] = distance, factor, mean, std
    if not found:
        return None
    name = next(iter(found))
    distance, factor, mean, std = found[name]
    return (
        f"the batch norm {spoken(name)} holds mean {means[name]:.3g} and standard deviation {stds[name]:.3g} for "
        f"evaluation, and sees {mean:.3g} and {std:.3g} in training",
        tuple(found),
        (
            Reading(f"distance of the means of {name}, in standard deviations", distance, stale),
            Reading(f"factor between the standard deviations of {name}", factor, float(np.exp(stale))),
        ),
    )
