"""Schedules of the learning rate that are attached to the optimizer: the program's loop stays as it is."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from netdoctor.findings import Remedy
from netdoctor.probes import losses
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.procedure import Procedure
from netdoctor.remedies.rate_factor import Schedule, scheduled, set_at_steps
from netdoctor.treatment import RemedyError

START = 0.01  # of the rate, in the first step of a warm-up


def warm_up(steps: int) -> Remedy:
    """Let the learning rate rise over the first steps."""
    return Remedy(
        action=f"Warm up: let the learning rate rise over the first {steps} steps",
        code=f"warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor={START}, total_iters={steps})\n"
        "# and warmup.step() after each optimizer.step()",
        source="Goyal et al. 2017, section 2.2",
        effect="the first steps, where curvature is highest, stay small",
        treatment=Procedure(functools.partial(_attach, warm=steps, total=0)),
    )


def warm_up_and_decay(warm: int, total: int) -> Remedy:
    """Let the learning rate rise over ``warm`` steps and fall along a cosine until step ``total``."""
    code = f"decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={total - warm})\n"
    if warm:
        code = (
            f"warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor={START}, total_iters={warm})\n" + code
        )
        code += f"schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], milestones=[{warm}])\n"
    return Remedy(
        action=(f"Let the learning rate rise over {warm} steps, then fall" if warm else "Let the learning rate fall")
        + f" along a cosine until step {total}",
        code=code + f"# and {'schedule' if warm else 'decay'}.step() after each optimizer.step()",
        source="Loshchilov & Hutter 2017, SGDR, section 3; Goyal et al. 2017, section 2.2",
        effect="large steps first, and ever smaller ones where noise would dominate",
        treatment=Procedure(functools.partial(_attach, warm=warm, total=total)),
    )


def decay_instead(rates: Sequence[float], total: int) -> Remedy:
    """Let each group's rate fall from one of ``rates`` along a cosine until step ``total``, whatever sets it now."""
    code = "\n".join(f'optimizer.param_groups[{index}]["lr"] = {rate:g}' for index, rate in enumerate(rates))
    return Remedy(
        action=f"Leave the present schedule out: from {max(rates):.3g} along a cosine until step {total}",
        code=f"{code}\ndecay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={total})\n"
        "# and decay.step() after each optimizer.step(), in place of the scheduler that is there",
        source="Loshchilov & Hutter 2017, SGDR, section 3",
        effect="the rate lasts as long as the training",
        treatment=Procedure(functools.partial(_decay_instead, rates=tuple(rates), total=total)),
    )


def _decay_instead(operation: Operation, rates: Sequence[float], total: int) -> None:
    optimizer = operation.needs_optimizer("schedules the learning rate")
    operation.needs_finite_weights()
    if len(rates) != len(optimizer.param_groups):
        raise RemedyError(f"there are rates for {len(rates)} param groups, and {len(optimizer.param_groups)} groups")
    described = f"from {max(rates):.3g} along a cosine until step {total}"
    set_at_steps(operation, lambda step, index, rate: rates[index] * _factor(step, 0, total), described)


def _factor(step: int, warm: int, total: int) -> float:
    if step < warm:
        return START + (1 - START) * step / warm
    if not total:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min((step - warm) / max(total - warm, 1), 1.0)))


def _attach(operation: Operation, warm: int, total: int) -> None:
    optimizer = _unscheduled(operation)
    described = f"rising over {warm} steps" if warm else ""
    decay = f"falling along a cosine until step {total}" if total else ""
    Schedule(optimizer, functools.partial(_factor, warm=warm, total=total)).attach(
        operation, ", then ".join(filter(None, (described, decay)))
    )


def _unscheduled(operation: Operation) -> Optimizer:
    optimizer = operation.needs_optimizer("schedules the learning rate")
    if scheduled(optimizer):
        raise RemedyError("a scheduler sets this optimizer's learning rate already: change that one")
    operation.needs_finite_weights()
    return optimizer


def reduce_on_plateau(factor: float = 0.1, window: int = 100) -> Remedy:
    """Multiply the learning rate by ``factor`` wherever the mean training loss of ``window`` steps is no lower."""
    return Remedy(
        action=f"Multiply the learning rate by {factor:g} where the training loss stays the same over {window} steps",
        code=f"scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor={factor:g}, patience=5)\n"
        "# and scheduler.step(val_loss) after each validation pass",
        source="PyTorch documentation, torch.optim.lr_scheduler.ReduceLROnPlateau",
        effect="the noise of the steps shrinks where it had become all there was",
        treatment=Procedure(functools.partial(_attach_plateau, factor=factor, window=window)),
    )


def _attach_plateau(operation: Operation, factor: float, window: int) -> None:
    optimizer = _unscheduled(operation)
    plateau = _Plateau(factor, window)
    Schedule(optimizer, plateau.now).attach(operation, f"{factor:g} times after each plateau of {window} steps")
    handle = optimizer.register_step_post_hook(plateau.after_step)
    losses.listen(plateau)
    operation.record(None, handle.remove)
    operation.record(None, lambda: losses.unlisten(plateau))


class _Plateau:
    """Listens to the losses; compares means of windows, so that a device is waited for once a window."""

    def __init__(self, factor: float, window: int) -> None:
        self.factor, self.window = factor, window
        self.scale = 1.0
        self._best = math.inf
        self._open: Tensor | None = None
        self._sum: Tensor | float = 0.0
        self._count = 0

    def now(self, step: int) -> float:
        return self.scale

    def before_backward(self, loss: Tensor) -> None:
        value = loss.detach().float()
        self._open = value if self._open is None else self._open + value

    def after_backward(self) -> None:
        """Nothing to do."""

    def dropping(self, *args: Any) -> None:
        """Nothing to do."""

    def evaluated(self, *args: Any) -> None:
        """Nothing to do."""

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._open is None:
            return
        self._sum, self._count, self._open = self._sum + self._open, self._count + 1, None
        if self._count < self.window:
            return
        mean, self._sum, self._count = float(self._sum) / self._count, 0.0, 0
        if not mean < self._best * (1 - 1e-4 * (self._best > 0)):  # torch's own threshold, relative
            self.scale *= self.factor
        self._best = min(self._best, mean)


def step_once_an_epoch() -> Remedy:
    """For a schedule in epochs that is stepped once a batch."""
    return Remedy(
        action="Step the scheduler once an epoch, or count its steps in batches",
        code="for epoch in range(epochs):\n    for x, y in loader:\n        ...  # forward, backward, step\n"
        "    scheduler.step()  # here, not inside\n"
        "# or inside, with step_size=30 * len(loader), T_max=epochs * len(loader)",
        source="PyTorch documentation, torch.optim, How to adjust learning rate",
        effect="the rate lasts as long as the training",
    )
