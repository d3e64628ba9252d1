"""Copies of a training: a model, its optimizer and its criterion, that share nothing with the originals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def copy_training(model: nn.Module, optimizer: Optimizer | None, loss_fn: Any) -> tuple[nn.Module, Any, Any]:
    """Deep copies of all three, the optimizer's holding the copied parameters, with state.

    Of the optimizer's hooks those of remedies come along. A scheduler goes on with the original only.

    Raises:
        ValueError: Something cannot be copied; says what.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # left over from a forward pass: deepcopy refuses it
                memo[id(value)] = value.detach().clone()
    try:
        copied = copy.deepcopy(model, memo)
        criterion = copy.deepcopy(loss_fn, memo) if isinstance(loss_fn, nn.Module) else loss_fn
        return copied, None if optimizer is None else _copy_optimizer(optimizer, memo), criterion
    except Exception as error:
        raise ValueError(f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}") from error


def _copy_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """All attributes: pickling keeps the state only, and LBFGS has more."""
    made = object.__new__(type(optimizer))
    memo[id(optimizer)] = made
    for name, value in vars(optimizer).items():
        if name in STEP_HOOKS:
            kept = {key: hook for key, hook in value.items() if hook.__module__.startswith("netdoctor.remedies")}
            setattr(made, name, type(value)(copy.deepcopy(kept, memo)))
        elif name.endswith("_hooks"):
            setattr(made, name, type(value)())
        elif not callable(value):  # schedulers wrap `step`
            setattr(made, name, copy.deepcopy(value, memo))
    return made


@contextmanager
def random_numbers_kept(loader: Any = None) -> Iterator[None]:
    """Put torch's generators, and a loader's own, back to where they were."""
    generator = getattr(loader, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        if isinstance(generator, torch.Generator) and state is not None:
            generator.set_state(state)
