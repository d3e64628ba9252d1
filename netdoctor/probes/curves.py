"""The training loss of every step and the mean of every validation pass, kept without waiting for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from netdoctor.history import History
from netdoctor.probes.targets import Targets
from netdoctor.structure import Path

Scalar = Tensor | float
KINDS = {
    "cross_entropy": ("cross-entropy", "nll"),
    "nll_loss": ("nll", "cross-entropy"),
    "binary_cross_entropy": ("binary-cross-entropy",),
    "binary_cross_entropy_with_logits": ("binary-cross-entropy-with-logits",),
    "mse_loss": ("mse",),
    "l1_loss": ("l1",),
    "smooth_l1_loss": ("smooth-l1",),
    "huber_loss": ("smooth-l1",),
    "kl_div": ("kl-div",),
}  # loss function -> kinds that the training loss's nodes give it


class TrainingLosses:
    """The losses whose `backward` ran between two optimizer steps belong to the later step and are summed.

    Two optimizers that step after the same backward passes share a loss; one that has losses of its own (a GAN's
    generator and discriminator) gets a column of its own in the history.

    Attributes:
        non_finite: Whether the last step's loss was NaN or Inf; known at once on the CPU.
        scale: The gradient scaler's scale, None without one.
    """

    def __init__(self) -> None:
        self.non_finite = False
        self.scale: Tensor | None = None
        self._scaled = False
        self._open: list[Tensor] = []
        self._stepping = self._stale = False
        self._taken: list[Tensor] | None = None  # the list that the last step took
        self._columns: dict[int, str] = {}  # optimizer -> column
        self._pending: list[tuple[int, str, str, Scalar]] = []  # step, statistic, column, value
        self._explicit: set[int] = set()  # steps whose loss the user gave
        self._targets = Targets()

    @property
    def several(self) -> bool:
        """Whether optimizers minimise different losses."""
        return len(self._columns) > 1

    def add(self, loss: Tensor) -> None:
        """`backward` is about to run from ``loss``."""
        if self._stale:
            self._open = []
            self._stale = False
        elif self._stepping:
            return  # a closure that the optimizer calls again within one step
        value = loss.detach()
        if self._scaled and loss.grad_fn is not None:
            self.scale = loss.grad_fn._saved_other  # type: ignore[attr-defined]
            value = value / self.scale
        self._open.append(value)

    def targets(self, path: Path, step: int) -> None:
        """Read target statistics and the gradient scaler's scale from the loss's nodes."""
        if path.nodes and path.names[0] == "MulBackward0" and len(path.nodes) > 1:
            other = path.nodes[0]._saved_other
            # A Python number is saved as float64, a scaler's scale is a float32 tensor.
            self._scaled = other is not None and other.numel() == 1 and other.dtype == torch.float32
            if self._scaled:
                path = Path(path.nodes[1:])
                if self.scale is None and self._open:  # the first loss was added before this was known
                    self.scale = other
                    self._open[-1] = self._open[-1] / other
        constant = self._targets.add(path)
        if constant is not None:
            parts = len(self._open)  # micro-batches so far: their losses are summed
            self._pending.append((step, "constant_loss", "", constant * parts))
        if self._targets.rms is not None:
            self._pending.append((step, "target_rms", "", self._targets.rms))

    def before_step(self) -> None:
        """Any optimizer begins a step."""
        self._stepping = self._stale = True

    def after_step(self, step: int, optimizer: int, alone: bool = False) -> None:
        """An optimizer (by ``id``) of the model has made a step, ``alone`` where it is the only one at work."""
        self._stepping = False
        if not self._open or self._taken is self._open:
            return
        self._taken = self._open
        if alone:
            self._columns = {optimizer: ""}  # it may have come in place of another
        column = self._columns.get(optimizer)
        if column is None:
            column = self._columns[optimizer] = f"optimizer {len(self._columns) + 1}" if self._columns else ""
        if step in self._explicit:
            return
        parts = [loss.reshape(()) for loss in self._open]
        total: Scalar = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
        if isinstance(total, Tensor) and total.device.type == "cpu":
            total = float(total)
            self.non_finite = not math.isfinite(total)
        self._pending.append((step, "loss", column, total))

    def observed(self, step: int, statistic: str, value: Scalar) -> None:
        """An explicit value for the step after ``step`` where its backward pass has run, else for ``step`` itself."""
        if self._open and not self._stale:
            step += 1
        if statistic == "loss":
            self._explicit.add(step)
            self._pending = [p for p in self._pending if p[:2] != (step, "loss")]
        self._pending.append((step, statistic, "", value))

    def predicted(self, step: int, output: Tensor, target: Tensor) -> None:
        """A prediction and its target, where the loss does not show them."""
        constant = self._targets.observe(output.detach(), target.detach())
        if constant is not None:
            self._pending.append((step, "constant_loss", "", constant))

    def flush(self, history: History) -> None:
        """Move everything kept so far into the history."""
        waiting = [value.reshape(()).float() for *_, value in self._pending if isinstance(value, Tensor)]
        if len({tensor.device for tensor in waiting}) > 1:
            waiting = [tensor.cpu() for tensor in waiting]
        arrived = iter(torch.stack(waiting).tolist() if waiting else ())
        for step, statistic, column, value in self._pending:
            number = next(arrived) if isinstance(value, Tensor) else value
            history.record(step, statistic, [number], (column,))
            if statistic == "loss" and not math.isfinite(number):
                self.non_finite = True
                history.record(step, "non_finite_loss", [1.0])
        self._pending.clear()
        self._explicit.clear()

    @property
    def waiting(self) -> int:
        """Values kept and not yet in the history."""
        return len(self._pending)


class ValidationLosses:
    """Losses computed without gradients between two training steps: one validation pass, averaged over its samples."""

    def __init__(self) -> None:
        self._passes: dict[str, list[tuple[Tensor, int]]] = {}
        self._explicit = False
        self._given: list[tuple[int, Scalar]] = []

    @property
    def pending(self) -> bool:
        """Whether a pass has not been moved into the history yet."""
        return bool(self._passes or self._given)

    def add(self, function: str, loss: Tensor, size: int) -> None:
        """One batch of ``size`` samples was evaluated."""
        if not self._explicit:
            self._passes.setdefault(function, []).append((loss.detach(), size))

    def observed(self, step: int, value: Scalar) -> None:
        """An explicit value; from now on only these count."""
        self._explicit = True
        self._passes.clear()
        self._given.append((step, value))

    def flush(self, history: History, step: int) -> None:
        """Move the pass into the history: that of the training's own loss function, else of the first seen."""
        for when, value in self._given:
            history.record(when, "val_loss", [float(value)])
        self._given.clear()
        if self._passes:
            kind = history.facts.loss.kind
            matching = [name for name in self._passes if kind in KINDS.get(name, ())]
            batches = self._passes[(matching or list(self._passes))[0]]
            samples = sum(size for _, size in batches)
            total = sum(float(loss.float().mean()) * size for loss, size in batches)
            self._passes.clear()
            history.record(step, "val_loss", [total / samples if samples else float("nan")])
