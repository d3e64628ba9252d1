"""Orthogonal weights: they keep the length of every signal, not only of the average one."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from netdoctor.facts import Facts
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.scales import gain
from netdoctor.remedies.wording import names_code


def orthogonal(facts: Facts, layers: Sequence[str]) -> Remedy:
    """Re-initialise linear and convolutional ``layers`` with orthogonal matrices times each nonlinearity's gain."""
    gains = {name: gain(facts.layer(name).nonlinearity) for name in layers}
    groups: dict[float, list[str]] = {}
    for name, factor in gains.items():
        groups.setdefault(factor, []).append(name)
    code = "\n".join(
        f"for name in {names_code(names)}:\n"
        f"    nn.init.orthogonal_(model.get_submodule(name).weight, gain={factor:.4g})"
        for factor, names in groups.items()
    )
    return Remedy(
        action=f"Initialise with orthogonal matrices, gain {', '.join(f'{factor:.3g}' for factor in groups)}",
        code=code,
        source="Saxe et al. 2014, section 3; Mishkin & Matas 2016",
        effect="signals and gradients keep their length through any depth",
        treatment=Procedure(functools.partial(_orthogonal, gains=gains)),
    )


def _orthogonal(operation: Operation, gains: dict[str, float]) -> None:
    for name, factor in gains.items():
        weight = operation.parameter(name)
        operation.write(f"{name}.weight", weight, nn.init.orthogonal_(torch.empty_like(weight), gain=factor))
