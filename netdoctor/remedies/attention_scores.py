"""Scores of attention, divided before their softmax."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure


def divide_scores(divisors: Mapping[str, float], logit: float, aim: float) -> Remedy:
    """Divide scores of up to ``logit``: at the layers that make the queries alone, or the softmax modules."""
    most = max(divisors.values())
    return Remedy(
        action=f"Divide the scores of attention by {most:.3g}, the root of the width of keys or more: logits of "
        f"{logit:.3g} become {aim:g}",
        code=f"weights = torch.softmax(scores / {most:.3g}, dim=-1)  # in {', '.join(divisors)}; start again with it",
        source="Vaswani et al. 2017, Attention is all you need, section 3.2.1",
        effect="each query attends to all keys until it has learned which count, and weights keep the size that steps "
        "are made for",
        treatment=Procedure(functools.partial(_divide_scores, divisors=dict(divisors))),
        restart=True,
    )


def _divide_scores(operation: Operation, divisors: Mapping[str, float]) -> None:
    for name, divisor in divisors.items():
        module = operation.module(name)
        if isinstance(module, nn.Softmax):
            handle: Any = module.register_forward_pre_hook(functools.partial(_divided_input, divisor))
        else:
            handle = module.register_forward_hook(functools.partial(_divided_output, divisor))
        what = f"input of {name}" if isinstance(module, nn.Softmax) else f"output of {name}"
        operation.attach(what, handle, f"divided by {divisor:.4g}")


def _divided_input(divisor: float, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0] / divisor, *args[1:])


def _divided_output(divisor: float, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return output / divisor
