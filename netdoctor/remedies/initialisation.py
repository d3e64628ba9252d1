"""Fresh weights of the right scale: Kaiming and Xavier for this very model, recurrent layers and attention too."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netdoctor.facts import Facts
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.scales import GAINS, RECTIFIERS, after_sigmoid, gain, ideal_std
from netdoctor.remedies.wording import names_code
from netdoctor.treatment import Treatment

GATED = {"recurrent": "hidden_size", "attention": "embed_dim"}  # kinds whose matrices are stacked, and of what height
GATED_CODE = (
    "for name in {names}:\n"
    "    layer = model.get_submodule(name)\n"
    "    for key, weight in layer.named_parameters():\n"
    "        if weight.ndim < 2:\n"
    "            nn.init.zeros_(weight)\n"
    "        else:  # a block for each gate, or for query, key and value\n"
    "            for block in weight.data.split(layer.{height}):\n"
    '                (nn.init.orthogonal_ if "hh" in key else nn.init.xavier_uniform_)(block)'
)


def initialise(facts: Facts, layers: Sequence[str]) -> Remedy:
    """Re-initialise the weights of ``layers`` with the variance-preserving std of each, biases with zero.

    Behind sigmoids a bias of minus half the sum of the weights takes out the mean of their outputs, 1/2: without it the
    units of a deep stack drift to their bounds. Recurrent layers get orthogonal recurrent matrices, attention Xavier.
    """
    gated = {name: GATED[facts.layer(name).kind] for name in layers if facts.layer(name).kind in GATED}
    plain = tuple(name for name in layers if name not in gated)
    stds = {name: ideal_std(facts.layer(name)) for name in plain}
    centred = tuple(name for name in plain if after_sigmoid(facts, name))
    code = _plain_code(facts, stds, centred)
    for height in dict.fromkeys(gated.values()):
        names = [name for name, each in gated.items() if each == height]
        code.append(GATED_CODE.format(names=names_code(names), height=height))
    functions = {facts.layer(name).nonlinearity for name in plain}
    rectified = bool(functions & RECTIFIERS)
    sources = ["He et al. 2015, section 2.2" if rectified else "Glorot & Bengio 2010, section 4.2"] if plain else []
    return Remedy(
        action=_action(stds, functions, rectified, gated),
        code="\n".join(code),
        source="; ".join([*sources, *(["Saxe et al. 2014, section 3"] if gated else [])]),
        effect="activations and gradients keep their scale from layer to layer",
        treatment=Procedure(functools.partial(_initialise, stds=stds, centred=centred, gated=gated)),
    )


def _action(stds: dict[str, float], functions: set[str], rectified: bool, gated: Iterable[str]) -> str:
    if not stds:
        return f"Initialise {', '.join(gated)}: orthogonal recurrent matrices, Xavier for the others, biases 0"
    low, high = min(stds.values()), max(stds.values())
    values = f"{low:.3g}" if math.isclose(low, high, rel_tol=0.01) else f"{low:.3g} … {high:.3g}"
    factor = ", ".join(sorted({f"{gain(f):.3g} ({f if f in GAINS else 'linear'})" for f in functions}))
    return f"Initialise with {'Kaiming' if rectified else 'Xavier'}: weight std {values}, gain {factor}"


def _plain_code(facts: Facts, stds: dict[str, float], centred: Sequence[str]) -> list[str]:
    biased = {parameter.layer for parameter in facts.parameters if parameter.role == "bias"}
    groups: dict[tuple[str, str], list[str]] = {}  # std and what the bias becomes -> layers
    for name, std in stds.items():
        bias = "" if name not in biased else "centred" if name in centred else "zero"
        groups.setdefault((f"{std:.4g}", bias), []).append(name)
    lines = {
        "": "",
        "zero": "\n    nn.init.zeros_(layer.bias)",
        "centred": "\n    layer.bias.data = -0.5 * layer.weight.data.flatten(1).sum(1)  # sigmoids average 1/2",
    }
    return [
        f"for name in {names_code(names)}:\n    layer = model.get_submodule(name)\n"
        f"    nn.init.normal_(layer.weight, std={std}){lines[bias]}"
        for (std, bias), names in groups.items()
    ]


def kaiming(model: nn.Module, optimizer: Optimizer | None, layers: Sequence[str]) -> Treatment:
    """Weights of ``layers`` by Kaiming for ReLU, biases zero, and no memory of the old ones in the optimizer."""
    return Procedure(functools.partial(kaiming_weights, layers=layers))(model, optimizer)


def kaiming_weights(operation: Operation, layers: Sequence[str]) -> None:
    """The same as part of a procedure."""
    weights = {name: operation.parameter(name) for name in layers}
    _initialise(operation, stds={name: math.sqrt(2.0 / weight[0].numel()) for name, weight in weights.items()})


def _initialise(
    operation: Operation,
    stds: Mapping[str, float],
    centred: Sequence[str] = (),
    gated: Mapping[str, str] | None = None,
) -> None:
    for name, std in stds.items():
        weight = nn.init.normal_(torch.empty_like(operation.parameter(name)), std=std)
        operation.write(f"{name}.weight", operation.parameter(name), weight)
        if operation.module(name)._parameters.get("bias") is not None:
            bias = operation.parameter(name, "bias")
            means = -0.5 * weight.flatten(1).sum(1) if name in centred else torch.zeros_like(bias)
            operation.write(f"{name}.bias", bias, means)
    for name, height in (gated or {}).items():
        layer = operation.module(name)
        for key, parameter in layer.named_parameters():
            operation.write(f"{name}.{key}", parameter, _gated(key, parameter, int(getattr(layer, height))))
    if operation.optimizer is None:
        operation.notes.append(
            "If an optimizer has made steps already, pass it too: its moments are of the old weights"
        )


def _gated(key: str, parameter: Tensor, height: int) -> Tensor:
    """What a parameter of a recurrent or attention layer becomes; ``height`` rows a gate (query, key, value)."""
    values = torch.zeros_like(parameter)
    if parameter.ndim > 1:
        for block in values.split(height):
            (nn.init.orthogonal_ if "hh" in key else nn.init.xavier_uniform_)(block)
    return values
