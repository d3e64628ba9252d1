"""Batch norms over a handful of samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from netdoctor import remedies, wiring
from netdoctor.facts import Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule

CAUSED = ("train-val-mismatch", "learning-rate-too-large", "covariate-shift", "loss-plateau", "not-learning")


@rule(Severity.WARNING, explains=CAUSED)
def small_batch_batchnorm(
    history: History,
    *,
    few: int = 4,  # samples: the error on ImageNet grows by 3.7 points at 4, by 11 at 2 (Wu & He 2018, table 2)
    fair: int = 8,  # samples: by 1.2 points at 8; from here on nothing is said
    samples: int = 5,  # sampled steps before it speaks: the first batch may be an odd one
) -> Iterator[Evidence | Skipped]:
    """Batch norms gather their statistics from so few samples that these are mostly noise.

    ## What it looks at
    The number of samples that each batch norm in training mode sees in a batch: the first dimension of its input.

    ## Why it matters
    The variance of n samples is known to sqrt(2/(n - 1)): 140 % of two, 82 % of four. With two samples of a table each
    normalised value is 1 or -1, whatever the input was. In evaluation other, smoother statistics are used: the model is
    then another one. Pixels of one image are alike and help less than their number says.

    ## When it is wrong
    Batches of one image, where the norm is an instance norm (image translation): a note. Training on all of a tiny data
    set in each step, where the statistics do not change: not reported.

    ## References
    Wu & He 2018, Group Normalization, table 2 and figure 1. Ioffe 2017, Batch Renormalization, section 1.
    """
    if len(history.table("evaluation_mode")) < samples:
        yield Skipped(f"fewer than {samples} samples")
        return
    off = wiring.switched_off(history)
    norms = [x for x in history.facts.layers if wiring.is_batch_norm(x) and x.called and x.name not in off]
    small = [layer for layer in norms if 0 < layer.batch < fair]
    if not small or _same_batch(history):
        return
    count = min(layer.batch for layer in small)
    error = f"known to {math.sqrt(2 / (count - 1)):.0%}" if count > 1 else "unknown"
    positions = small[0].samples // max(small[0].batch, 1)
    places = f" ({small[0].samples} with its {positions} positions)" if positions > 1 else ""
    yield Evidence(
        message=f"{spoken(small[0].name)} normalises over {count} sample{'s' * (count > 1)}{places} in a batch: the "
        f"variance of {count} is {error}; {fair} are the least.",
        layers=tuple(layer.name for layer in small),
        readings=tuple(Reading(f"samples that {x.name} sees in a batch", float(x.batch), float(fair)) for x in small),
        confidence=0.8,
        severity=None if 1 < count < few else Severity.NOTE,
        remedies=(_replace(small), _accumulate(count)),
    )


def _same_batch(history: History) -> bool:
    """Whether the model is given the same in every step."""
    means, stds = (history.series(name)[1] for name in ("model_input_mean", "model_input_std"))
    return len(means) > 1 and bool(np.ptp(means) <= 1e-6 * np.abs(stds).max() >= np.ptp(stds))


def _replace(small: list[Layer]) -> Remedy:
    of_rows = {layer.name: layer.samples <= layer.batch for layer in small}
    lines = []
    for rows, make in ((True, "nn.LayerNorm(norm.num_features)"), (False, "nn.GroupNorm(groups, norm.num_features)")):
        names = [name for name, each in of_rows.items() if each is rows]
        if names:
            lines += [f"for name in {remedies.names_code(names)}:", "    norm = model.get_submodule(name)"]
            if not rows:
                lines.append("    groups = next(g for g in (8, 4, 2, 1) if norm.num_features % g == 0)")
            lines += [f"    new = {make}", "    new.weight, new.bias = norm.weight, norm.bias"]
            lines.append("    model.set_submodule(name, new)")
    kinds = " and ".join(kind for kind, rows in (("LayerNorm", True), ("GroupNorm", False)) if rows in of_rows.values())
    return Remedy(
        action=f"Replace them by {kinds}, which looks at each sample alone",
        code="\n".join(lines),
        source="Wu & He 2018, Group Normalization; Ba et al. 2016, Layer Normalization, section 3",
        effect="the same in training and evaluation, at every batch size",
        treatment=remedies.replace_batch_norms(of_rows),
    )


def _accumulate(count: int) -> Remedy:
    return Remedy(
        action=f"Or larger batches: {max(16, 4 * count)} samples. Accumulated gradients do not help, for each part is "
        "normalised by itself",
        code=f"loader = DataLoader(dataset, batch_size={max(16, 4 * count)}, shuffle=True, drop_last=True)",
        source="Ioffe 2017, Batch Renormalization, section 1",
    )


def _history(batch: int, rows: int = 8, mode: float = 0.0, steady: bool = False) -> History:
    facts = Facts(layers=(Layer("1", "norm", "BatchNorm2d", called=True, samples=64 * batch, batch=batch),))
    inputs = [0.1 * (steady or i % 3) for i in range(rows)]
    return History.of(
        facts, evaluation_mode={"1": [mode] * rows}, model_input_mean=inputs, model_input_std=[1.0] * rows
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (_history(2), _history(3))


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(32),  # healthy
        _history(6),  # a note
        _history(1),  # an instance norm: a note
        _history(2, mode=1.0),  # frozen
        _history(2, steady=True),  # all of the data in each step
        _history(2, rows=3),  # too early
    )
