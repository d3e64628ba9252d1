"""Remedies that several rules make of what was measured."""

from __future__ import annotations

import math

from netdoctor import remedies
from netdoctor.facts import Layer
from netdoctor.findings import Remedy
from netdoctor.history import History

POWER = {"mse": 2, "l1": 1, "smooth-l1": 1}  # with which the gradient grows with the targets' scale


def standardise_targets(history: History) -> tuple[Remedy, ...]:
    """Standardised targets as a remedy, empty where no values are seen; by hand where each column has its own unit."""
    facts = history.facts
    if facts.loss.kind not in POWER or not len(history.series("target_rms")[1]):
        return ()
    rms, mean, std = (float(history.series(f"target_{name}")[1][-1]) for name in ("rms", "mean", "std"))
    spread = std if std > 0 and math.isfinite(std) else rms
    alike = rms**2 - mean**2 - spread**2 <= spread**2  # the means of the columns differ by less than the samples
    layer = next((layer for layer in facts.layers if layer.name == facts.loss.layer and alike), Layer("", "other"))
    adaptive = any(group.optimizer.startswith(remedies.ADAPTIVE) for group in facts.groups)
    factor = 1.0 if adaptive else spread ** -POWER[facts.loss.kind]
    return (remedies.standardise_targets(layer, mean, spread, factor),)


def bound_weights(history: History, every: bool = False) -> Remedy:
    """Keep the norm of each weight, or of every parameter, at what it was at the start; at 1 of those that were 0."""
    first = history.first("weight_rms")
    chosen = [p.name for p in history.facts.parameters if p.trainable and (every or p.role == "weight")]
    weights = {name: first[name] or 1.0 for name in chosen if name in first and (every or first[name] > 0)}
    return Remedy(
        "Look for a loss without a lower bound (the sign of a penalty, a critic without constraint), and bound the "
        "weights after each step",
        f"bounds = {{{', '.join(f'{name!r}: {rms:.4g}' for name, rms in list(weights.items())[:50])}}}\n"
        "with torch.no_grad():  # after each optimizer.step()\n"
        "    for name, rms in bounds.items():\n"
        "        weight = model.get_parameter(name)\n"
        "        weight.mul_((rms / weight.square().mean().sqrt()).clamp(max=1))",
        "Srivastava et al. 2014, section 5.1 (max-norm); Arjovsky et al. 2017, section 3",
        "the weights stay as large as they were",
        treatment=remedies.bound_weights(weights),
        unbounded=True,
    )
