"""Clipped gradients."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.optim import LBFGS

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.treatment import RemedyError


def clip_gradients(norm: float) -> Remedy:
    """Clip the norm of all gradients at ``norm`` before each step, until the treatment is undone."""
    return Remedy(
        action=f"Clip the gradient norm at {norm:.3g}, between backward() and step()",
        code=f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={norm:.3g})",
        source="Pascanu et al. 2013, section 3.2",
        effect="single large gradients no longer throw the weights away",
        treatment=Procedure(functools.partial(_clip_gradients, norm=norm)),
    )


def _clip_gradients(operation: Operation, norm: float) -> None:
    optimizer = operation.needs_optimizer("clips before each step")
    if isinstance(optimizer, LBFGS):
        raise RemedyError("LBFGS computes its gradients within the step: clip in its closure, after backward()")
    operation.needs_finite_weights()

    def clip(optimizer: Any, args: Any, kwargs: Any) -> None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], norm)

    operation.attach("the gradient norm at each step", optimizer.register_step_pre_hook(clip), f"at most {norm:.3g}")
