"""A factor on the learning rate that is applied at every step, on top of whatever sets the rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from netdoctor.remedies.operation import Operation


def scheduled(optimizer: Optimizer) -> bool:
    """Whether a scheduler sets the learning rates: each of torch's leaves its mark."""
    return any("initial_lr" in group for group in optimizer.param_groups)


def scale_scheduled(operation: Operation, factor: float) -> None:
    """Make each step with ``factor`` times the scheduler's rate."""
    set_at_steps(operation, lambda step, index, rate: rate * factor, f"{factor:g} times what the scheduler sets")


def set_at_steps(operation: Operation, rate_of: Callable[[int, int, Any], Any], described: str) -> None:
    """Make each step with another rate; between the steps a scheduler finds its own.

    Args:
        operation: What is being done to which optimizer.
        rate_of: Gives the rate of a step, counted from 0, for a group's index and the rate that is set.
        described: What that is, in words.
    """
    optimizer = operation.needs_optimizer("changes the learning rate")
    own: list[Any] = []
    steps = itertools.count()

    def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        own[:] = [
            group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in optimizer.param_groups
        ]
        step = next(steps)
        for index, group in enumerate(optimizer.param_groups):
            put(group, rate_of(step, index, group["lr"]))

    def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, own, strict=False):
            put(group, rate)

    for handle in (optimizer.register_step_pre_hook(before_step), optimizer.register_step_post_hook(after_step)):
        operation.attach("the learning rate at each step", handle, described)
    operation.changes.pop()  # two hooks, one change


class Schedule:
    """Step hooks that set each group's rate to its base times ``factor(step)``, steps counted from 0.

    The base is the rate that was there, or what the program has set since.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self.factor = factor
        self.step = 0
        self._bases = [float(group["lr"]) for group in optimizer.param_groups]
        self._set = list(self._bases)

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Set the rates of the step that begins."""
        for index, group in enumerate(optimizer.param_groups[: len(self._bases)]):
            if float(group["lr"]) != self._set[index]:
                self._bases[index] = float(group["lr"])
            put(group, self._bases[index] * self.factor(self.step))
            self._set[index] = float(group["lr"])
        self.step += 1

    def attach(self, operation: Operation, described: str) -> None:
        """Let the optimizer of an operation be scheduled from now on."""
        optimizer = operation.needs_optimizer("schedules the learning rate")
        for group in optimizer.param_groups:
            rate = group["lr"]
            operation.record(None, _resetter(group, rate.clone() if isinstance(rate, Tensor) else rate))
        operation.attach(
            "the learning rate at each step", optimizer.register_step_pre_hook(self.before_step), described
        )


def put(group: dict[str, Any], rate: Any) -> None:
    """Set a group's learning rate; one that is a tensor keeps its identity."""
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(rate) if isinstance(rate, Tensor) else group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _resetter(group: dict[str, Any], rate: Any) -> Callable[[], None]:
    return lambda: put(group, rate)
