"""Ends a training where it was best."""

from __future__ import annotations

from typing import Any

import torch

from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.treatment import RemedyError


def stop_at(step: int) -> Procedure:
    """Let the optimizer's ``step`` steps from now on be its last: later ones leave weights and buffers as they are."""

    def perform(operation: Operation) -> None:
        optimizer = operation.needs_optimizer("counts the steps")
        if step < 1:
            raise RemedyError("validation was best before the first step: there is nothing to keep")
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not any(id(parameter) in held for parameter in operation.model.parameters()):
            raise RemedyError("this optimizer holds no parameter of the model")
        last = _LastStep(operation.model, step)
        operation.attach("steps that change the weights", optimizer.register_step_post_hook(last), f"the first {step}")

    return Procedure(perform)


class _LastStep:
    """Step hook: keeps what the model is after so many steps, and puts it back after each further one."""

    def __init__(self, model: torch.nn.Module, step: int) -> None:
        self.model, self.left = model, step
        self.kept: list[torch.Tensor] = []

    def __call__(self, *_: Any) -> None:
        self.left -= 1
        state = [*self.model.parameters(), *self.model.buffers()]
        if self.left == 0:
            self.kept = [each.detach().clone() for each in state]
        elif self.left < 0:
            with torch.no_grad():
                for each, kept in zip(state, self.kept, strict=True):
                    each.copy_(kept)
