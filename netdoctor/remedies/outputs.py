"""Output activations that the loss does not want."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.wording import brief, names_code
from netdoctor.treatment import RemedyError


def remove_activation(modules: Sequence[str], function: str = "softmax") -> Remedy:
    """Take the output's activation out; where it is a function in forward, ``modules`` is empty: a human hand."""
    code = f"# in forward():\nreturn logits  # instead of {function}(logits)"
    if modules:
        code = f"for name in {names_code(modules)}:\n    model.set_submodule(name, nn.Identity())"
    return Remedy(
        action=f"Remove the {function} at the output: the loss takes its input as it is",
        code=code,
        source="PyTorch documentation, torch.nn.CrossEntropyLoss",
        effect="gradients are no longer flattened; where probabilities are needed, compute them from the output",
        treatment=Procedure(functools.partial(_remove, modules=tuple(modules))) if modules else None,
    )


def remove_softmax(modules: Sequence[str]) -> Remedy:
    """Take a softmax out that the loss computes once more."""
    return remove_activation(modules, "softmax")


def replace_output(modules: Sequence[str], by: str, why: str) -> Remedy:
    """Replace the output's activation by the module class of `torch.nn` called ``by`` ("Sigmoid").

    Args:
        modules: Its name; empty where it is a function.
        by: Name of the class, which takes no arguments.
        why: What to expect of it.
    """
    code = f"# in forward(): {by.lower()} in place of the present output activation"
    if modules:
        code = f"for name in {names_code(modules)}:\n    model.set_submodule(name, nn.{by}())"
    return Remedy(
        action=f"Use {by} at the output",
        code=code,
        source="Goodfellow et al. 2016, section 6.2.2",
        effect=why,
        treatment=Procedure(functools.partial(_put, modules=tuple(modules), by=by)) if modules else None,
    )


def _remove(operation: Operation, modules: Sequence[str]) -> None:
    _put(operation, modules, "Identity")


def _put(operation: Operation, modules: Sequence[str], by: str) -> None:
    for name in modules:
        old = operation.module(name)
        if any(True for _ in old.parameters()):
            raise RemedyError(f"{name} is {brief(old)}: it has parameters, and is more than an activation")
        operation.replace(name, getattr(nn, by)())


def leave_out(module: str, function: str, action: str, source: str, effect: str) -> Remedy:
    """Do without the nonlinearity that a module, or else forward(), applies to the output."""
    code = f'model.set_submodule("{module}", nn.Identity())'
    return Remedy(
        action=action,
        code=code if module else f"# in forward(): return the output of the last layer as it is, without {function}",
        source=source,
        effect=effect,
        treatment=Procedure(functools.partial(_remove, modules=(module,))) if module else None,
    )


def use_sigmoid(module: str) -> Procedure:
    """Put a sigmoid in the place of a module."""
    return Procedure(functools.partial(_put, modules=(module,), by="Sigmoid"))
