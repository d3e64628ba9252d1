"""GPT-2's weights for transformers: small everywhere, smaller still where many blocks add to one residual stream."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from netdoctor.facts import WEIGHTED, Facts
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.wording import names_code

STD = 0.02  # of all weights (Radford et al. 2019, and Devlin et al. 2019, section A.2)


def initialise_transformer(facts: Facts) -> Remedy:
    """Re-initialise a transformer: N(0, 0.02²), over sqrt(N) for the N layers that add to the residual stream."""
    weights = {p.name: p for p in facts.parameters if p.role in ("weight", "embedding") and len(p.shape) > 1}
    adding = {layer.name for layer in facts.layers if layer.residual and layer.kind in WEIGHTED}
    scaled = [p.name for p in weights.values() if p.layer in adding or p.layer.rpartition(".")[0] in adding]
    small = STD / math.sqrt(max(len(adding), 1))
    stds = {name: small if name in scaled else STD for name in weights}
    biases = [p.name for p in facts.parameters if p.role == "bias"]
    code = f"for name in {names_code(list(stds))}:\n    nn.init.normal_(model.get_parameter(name), std={STD})"
    if scaled:
        code += f"\nfor name in {names_code(scaled)}:  # what each block adds to the stream"
        code += f"\n    nn.init.normal_(model.get_parameter(name), std={small:.4g})"
    if biases:
        code += f"\nfor name in {names_code(biases)}:\n    nn.init.zeros_(model.get_parameter(name))"
    return Remedy(
        action=f"Initialise as GPT-2: weight std {STD}, {small:.3g} in the {len(adding)} layers that add to the "
        "residual stream",
        code=code,
        source="Radford et al. 2019, section 2.3",
        effect="the residual stream keeps its scale however many blocks add to it",
        treatment=Procedure(functools.partial(_initialise, stds=stds, biases=biases)) if stds else None,
    )


def _initialise(operation: Operation, stds: dict[str, float], biases: list[str]) -> None:
    parameters = dict(operation.model.named_parameters())
    for name in (*stds, *biases):
        owner, _, leaf = name.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None:
            parameter = operation.parameter(owner, leaf)  # says what is missing
        values = torch.zeros_like(parameter)
        operation.write(name, parameter, nn.init.normal_(values, std=stds[name]) if name in stds else values)
