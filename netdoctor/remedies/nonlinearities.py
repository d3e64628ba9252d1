"""Other nonlinearities in place of those that do harm."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from torch import nn

from netdoctor.findings import Remedy
from netdoctor.remedies.initialisation import kaiming_weights
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.sequences import put_behind
from netdoctor.remedies.wording import brief, names_code
from netdoctor.treatment import RemedyError


def replace_by_relu(model: nn.Module, modules: Sequence[str]) -> None:
    """Put a ReLU in the place of each of ``modules``."""
    for name in modules:
        model.set_submodule(name, nn.ReLU())


def replace_by_leaky_relu(modules: Sequence[str]) -> Remedy:
    """Give the units of ``modules`` a slope where they are silent; functional ReLUs take a human hand."""
    if modules:
        code = f"for name in {names_code(modules)}:\n    model.set_submodule(name, nn.LeakyReLU(0.01))"
    else:
        code = "# in forward():\nx = F.leaky_relu(x, 0.01)  # instead of F.relu(x)"
    return Remedy(
        action="Replace ReLU by LeakyReLU, which lets a gradient through silent units",
        code=code,
        source="Maas et al. 2013, Rectifier nonlinearities improve neural network acoustic models",
        effect="silent units can come back",
        treatment=Procedure(functools.partial(_replace, modules=tuple(modules), make=_leaky)) if modules else None,
    )


def rectify(modules: Sequence[str], layers: Sequence[str], certain: bool = True) -> Remedy:
    """ReLU in place of the bounded nonlinearities ``modules``, and weights of ``layers`` that fit it.

    Args:
        modules: Names of the nonlinearities; empty where they are functions.
        layers: Names of the layers between which they stand.
        certain: Whether all of ``modules`` stand between these layers only.
    """
    code = "# in forward: torch.relu in place of torch.sigmoid and torch.tanh\n"
    if modules:
        code = f"for name in {names_code(modules)}:\n    model.set_submodule(name, nn.ReLU())\n"
    code += (
        f"for name in {names_code(layers)}:\n    layer = model.get_submodule(name)\n"
        '    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")\n'
        "    if layer.bias is not None:\n        nn.init.zeros_(layer.bias)"
    )

    def perform(operation: Operation) -> None:
        _replace(operation, modules, nn.ReLU)
        kaiming_weights(operation, layers)

    return Remedy(
        action="Use ReLU in place of sigmoid and tanh, with Kaiming initialisation (gain 1.41)",
        code=code,
        source="Glorot et al. 2011; He et al. 2015, section 2.2",
        effect="the slope of an active unit is 1 instead of at most 0.25 (sigmoid): gradients keep their scale",
        treatment=Procedure(perform) if modules and certain else None,
    )


def insert_nonlinearity(layers: Sequence[str]) -> Remedy:
    """Put a ReLU behind each of ``layers``, where a plain `nn.Sequential` runs another layer directly after it."""
    return Remedy(
        action=f"Put a ReLU behind {', '.join(layers)}",
        code=f"for name in {names_code(layers)}:\n"
        "    model.set_submodule(name, nn.Sequential(model.get_submodule(name), nn.ReLU()))",
        source="Goodfellow et al. 2016, section 6.1",
        effect="the layers together can compute more than one linear layer does",
        treatment=Procedure(functools.partial(_insert, layers=tuple(layers))),
    )


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.01)


def _replace(operation: Operation, modules: Sequence[str], make: Callable[[], nn.Module]) -> None:
    for name in modules:
        old = operation.module(name)
        if any(True for _ in old.parameters()):
            raise RemedyError(f"{name} is {brief(old)}, which has parameters")
        operation.replace(name, make())


def _insert(operation: Operation, layers: Sequence[str]) -> None:
    for name in layers:
        put_behind(operation, name, nn.ReLU())
