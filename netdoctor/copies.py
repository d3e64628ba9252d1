"""Copies of a training: a model, its optimizer and its criterion, that share nothing with the originals."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netdoctor.probes.unheard import unheard

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


def _copy_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Any:
    """All attributes: pickling keeps the state only, and LBFGS has more."""
    made = object.__new__(type(optimizer))
    memo[id(optimizer)] = made
    for name, value in vars(optimizer).items():
        if name in STEP_HOOKS:
            kept = {key: hook for key, hook in value.items() if _of_remedy(hook)}
            setattr(made, name, type(value)(copy.deepcopy(kept, memo)))
        elif name.endswith("_hooks"):
            setattr(made, name, type(value)())
        elif not callable(value):  # schedulers wrap `step`
            setattr(made, name, copy.deepcopy(value, memo))
    return made


def _of_remedy(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("netdoctor.remedies")


def at_rest(optimizer: Optimizer | None, model: nn.Module, copied: nn.Module) -> Optimizer:
    """An optimizer of the same class name and groups for a copy of the model, whose steps change nothing.

    Without one, of all trainable parameters.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = dict(copied.named_parameters())
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": 0.0}]
    if optimizer is not None:
        groups = optimizer.param_groups
    made: Any = object.__new__(type("Optimizer" if optimizer is None else type(optimizer).__name__, (_AtRest,), {}))
    made.defaults, made.state = {}, defaultdict(dict)
    made.param_groups = [
        {**group, "params": [own[names[id(p)]] if id(p) in names else p for p in group["params"]]} for group in groups
    ]
    for name in (*STEP_HOOKS, "_optimizer_state_dict_pre_hooks"):
        setattr(made, name, OrderedDict())
    made._patch_step_function()
    resting: Optimizer = made
    return resting


class _AtRest(Optimizer):
    """Made without `__init__`: nobody who looks for optimizers is to find it."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change nothing."""


@contextmanager
def apart(model: nn.Module, loader: Any = None) -> Iterator[None]:
    """Let nothing of an experiment on copies show in the program.

    Random numbers, the loader's order and the model's gradients are afterwards as they were, and monitors of the
    program hear of no loss and no step.
    """
    generator = getattr(loader, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None  # a loss function may hold the model itself
    devices = sorted({p.device.index or 0 for p, _ in gradients if p.device.type == "cuda"})
    numbers, own = random.getstate(), np.random.get_state()  # noqa: NPY002  # what users draw from
    try:
        with unheard(), torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(own)  # noqa: NPY002
        for parameter, gradient in gradients:
            parameter.grad = gradient
        if isinstance(generator, torch.Generator) and state is not None:
            generator.set_state(state)
