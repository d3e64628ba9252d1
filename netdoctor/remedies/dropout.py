"""More dropout, or less."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from netdoctor.facts import Facts
from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.sequences import put_behind
from netdoctor.remedies.wording import names_code
from netdoctor.treatment import RemedyError

SOURCE = "Srivastava et al. 2014, Dropout"
USUAL = 0.3  # rate that is put behind hidden layers
STEP, MOST = 0.2, 0.5  # by which a rate is raised, and up to where


def more_dropout(facts: Facts) -> tuple[Remedy, ...]:
    """Raise the rates where the model has dropout, else put some behind its last hidden nonlinearities, if any."""
    if any(layer.type.startswith("Dropout") for layer in facts.layers):
        code = (
            "for module in model.modules():\n    if isinstance(module, nn.Dropout):\n"
            f"        module.p = min(module.p + {STEP}, {MOST})"
        )
        action = f"Raise the dropout rate by {STEP}, to {MOST} at most"
        return (Remedy(action, code, SOURCE, "units cannot rely on each other", Procedure(_raise)),)
    linear = {layer.name for layer in facts.layers if layer.kind == "linear"}
    hidden = [a.name for a in facts.layers if a.kind == "activation" and linear & set(a.inputs) and a.name][-2:]
    return (insert_dropout(hidden),) if hidden else ()


def insert_dropout(modules: Sequence[str], rate: float = USUAL) -> Remedy:
    """Put dropout behind each of ``modules``, nonlinearities without parameters."""
    return Remedy(
        f"Put dropout {rate:g} behind {', '.join(modules)}",
        f"for name in {names_code(modules)}:\n"
        f"    model.set_submodule(name, nn.Sequential(model.get_submodule(name), nn.Dropout({rate:g})))",
        SOURCE,
        "units cannot rely on each other",
        treatment=Procedure(functools.partial(_insert, modules=tuple(modules), rate=rate)),
    )


def set_dropout(modules: Sequence[str], rate: float) -> Remedy:
    """Give each of ``modules``, dropout layers, the same rate."""
    return Remedy(
        f"Set the dropout rate to {rate:g}",
        f"for name in {names_code(modules)}:\n    model.get_submodule(name).p = {rate:g}",
        SOURCE,
        "enough of the signal comes through to learn from",
        treatment=Procedure(functools.partial(_set, modules=tuple(modules), rate=rate)),
    )


def _raise(operation: Operation) -> None:
    for name, module in operation.model.named_modules():
        if isinstance(module, _DropoutNd):
            operation.set(f"rate of {name}", module, "p", max(module.p, min(module.p + STEP, MOST)))


def _insert(operation: Operation, modules: Sequence[str], rate: float) -> None:
    for name in modules:
        put_behind(operation, name, nn.Dropout(rate))


def _set(operation: Operation, modules: Sequence[str], rate: float) -> None:
    for name in modules:
        module = operation.module(name)
        if hasattr(module, "dropout") and isinstance(module.dropout, float):  # recurrent layers and attention
            operation.set(f"dropout of {name}", module, "dropout", rate)
        elif isinstance(module, _DropoutNd):
            operation.set(f"rate of {name}", module, "p", rate)
        else:
            raise RemedyError(f"{name} is {type(module).__name__}, no dropout layer")
