"""The training loss of every step and the mean of every validation pass, kept without waiting for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netdoctor.facts import Loss
from netdoctor.loss_path import Path
from netdoctor.probes import penalties, predictions
from netdoctor.probes.comparisons import ELEMENTS, Outputs
from netdoctor.probes.jumps import Jumps
from netdoctor.probes.losses import Evaluated
from netdoctor.probes.rest import Rest, added
from netdoctor.probes.sampling import plain
from netdoctor.probes.scalars import Scalar, Scalars
from netdoctor.probes.targets import Targets

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
BOUNDS = ("constant_loss", "uninformed_loss")


class TrainingLosses:
    """The losses whose `backward` ran between two optimizer steps belong to the later step and are summed.

    Two optimizers that step after the same backward passes share a loss; one that has losses of its own (a GAN's
    generator and discriminator) gets a column of its own in the history.

    On the CPU a loss is a number at once, elsewhere it stays a tensor.

    Args:
        scalars: Where the losses go.

    Attributes:
        jumps: Compares the losses of the steps.
        scale: The gradient scaler's scale, None without one.
    """

    def __init__(self, scalars: Scalars) -> None:
        self.scale: Tensor | None = None
        self._scalars = scalars
        self.jumps = Jumps()
        self._scaled = False
        self._open: list[Scalar] = []
        self._stepping = self._stale = False
        self._untaken = False  # whether the step that is under way found losses that no step has taken
        self._staged: dict[str, Scalar] = {}  # what the nodes of the open losses told, by statistic
        self._kinds: set[str] = set()  # of the open losses; "" for those that tell of no constant prediction
        self._taken: list[Scalar] | None = None  # the list that the last step took
        self._columns: dict[int, str] = {}  # optimizer -> column
        self._explicit: set[int] = set()  # steps whose loss the user gave
        self._observed: dict[str, int] = {}  # the last step of what the user gave, by statistic
        self._targets = Targets()

    @property
    def several(self) -> bool:
        """Whether optimizers minimise different losses."""
        return len(self._columns) > 1

    @property
    def non_finite(self) -> bool:
        """Whether a loss that has arrived in the history was NaN or Inf."""
        return self._scalars.non_finite

    def add(self, loss: Tensor) -> Scalar | None:
        """`backward` is about to run from ``loss``: its value, None where it does not count."""
        if self._stale:
            if not self._untaken:
                self._open, self._staged, self._kinds = [], {}, set()
            self._stale = False
        elif self._stepping:
            return None  # a closure that the optimizer calls again within one step
        value = self.value(loss)
        if value is not None:
            self._open.append(value)
        return value

    def value(self, loss: Tensor) -> Scalar | None:
        """A loss without the gradient scaler's scale; None where it is none to compute with."""
        value = loss.item() if type(loss) is Tensor and loss.is_cpu else plain(loss.detach())
        if self._scaled and value is not None and loss.grad_fn is not None:
            self.scale = loss.grad_fn._saved_other  # type: ignore[attr-defined]
            return _unscaled(value, self.scale)
        return value

    def read(self, path: Path, outputs: Outputs | None = None) -> None:
        """Read predictions, targets and the gradient scaler's scale from the nodes of the loss added last.

        Args:
            path: From the loss to the last layer.
            outputs: What some of its nodes made.
        """
        if not self._open:
            return
        if not path.nodes:
            self._bounded("", None)
            return
        if path.names[0] == "MulBackward0" and len(path.nodes) > 1:
            other = path.nodes[0]._saved_other
            # A Python number is saved as float64, a scaler's scale is a float32 tensor.
            self._scaled = other is not None and other.numel() == 1 and other.dtype == torch.float32
            if self._scaled:
                path = Path(path.nodes[1:], path.layer, path.end)
                if self.scale is None:  # the first loss was added before this was known
                    self.scale = other
                    self._open[-1] = _unscaled(self._open[-1], other)
        path, penalty = penalties.split(path)
        self._staged |= predictions.describe(path, outputs)
        found = self._targets.add(path, outputs)
        if penalty is not None:
            self._staged["penalty"] = penalty
            bound = torch.where(penalty >= 0, penalty, math.nan)  # a reward for large weights has no bound
            found = None if found is None else {name: value + bound for name, value in found.items()}
        self._bounded(path.kind, found)
        self._staged |= self._targets.described

    def tell(self, statistic: str, value: Scalar | None) -> None:
        """What else the nodes of the loss added last told."""
        if self._open and value is not None:
            self._staged[statistic] = value

    def _bounded(self, kind: str, found: dict[str, Scalar] | None) -> None:
        """Bounds of the loss added last count for the step where all its losses are of one kind: they are summed."""
        self._kinds.add(kind if found is not None else "")
        for name in BOUNDS:
            self._staged.pop(name, None)
        if found is not None and len(self._kinds) == 1:
            self._staged |= {name: value * len(self._open) for name, value in found.items()}

    def before_step(self, own: bool = True) -> None:
        """Any optimizer begins a step; the closure of the model's ``own`` adds to the losses accumulated so far."""
        self._stepping = self._stale = True
        self._untaken = own and self._taken is not self._open

    def stepped_elsewhere(self) -> None:
        """An optimizer of another model has made its step."""
        self._stepping, self._stale = False, True

    def after_step(self, step: int, optimizer: int, alone: bool = False) -> None:
        """An optimizer (by ``id``) of the model has made a step, ``alone`` where it is the only one at work."""
        self._stepping, self._untaken, self._stale = False, False, True
        if not self._open or self._taken is self._open:
            return
        self._taken = self._open
        column = self._column(optimizer, alone)
        if step in self._explicit:
            self._explicit = {later for later in self._explicit if later > step}
            return
        total = added(self._open)
        self.jumps.add(total)
        self._scalars.keep(step, "loss", total, column)
        for statistic, value in self._staged.items():
            self._scalars.keep(step, statistic, value)

    def take_over(self, rest: Rest) -> None:
        """Go on where a rest has ended."""
        column = self._column(rest.optimizer, alone=True)
        for step, loss in enumerate(rest.losses, start=rest.since + 1):
            if loss is not None and step not in self._explicit:
                self._scalars.keep(step, "loss", loss, column)
        self._open, self._staged, self._kinds = rest.open, {}, set()
        self._stale = rest.stale or not rest.open

    def _column(self, optimizer: int, alone: bool) -> str:
        if alone and (len(self._columns) != 1 or optimizer not in self._columns):
            self._columns = {optimizer: ""}  # it may have come in place of another
        column = self._columns.get(optimizer)
        if column is None:
            column = self._columns[optimizer] = f"optimizer {len(self._columns) + 1}" if self._columns else ""
        return column

    def observed(self, step: int, statistic: str, value: Scalar) -> None:
        """An explicit value for the step after ``step`` where its backward pass has run, else for ``step`` itself."""
        if self._open and not self._stale:
            step += 1
        step = self._observed[statistic] = max(step, self._observed.get(statistic, 0))  # no way back
        if statistic == "loss":
            self._explicit.add(step)
            self._scalars.drop(step, "loss")
        self._scalars.keep(step, statistic, value)

    def predicted(self, step: int, output: Tensor, target: Tensor) -> None:
        """A prediction and its target, where the loss does not show them."""
        constant = self._targets.observe(output.detach(), target.detach())
        if constant is not None:
            self._scalars.keep(step, "constant_loss", constant)


def _unscaled(loss: Scalar, scale: Tensor) -> Scalar:
    return loss / scale if isinstance(loss, Tensor) else loss / float(scale)


@dataclass
class _Pass:
    """The batches of one validation pass that went through one loss function."""

    losses: list[tuple[Tensor, int, int]] = field(default_factory=list)  # value, samples, elements if it is their sum
    targets: Targets = field(default_factory=Targets)
    constant: Tensor | float | None = None
    hits: list[tuple[Tensor, int]] = field(default_factory=list)  # accuracy, samples


class ValidationLosses:
    """Losses computed without gradients between two training steps: one validation pass, averaged over its samples.

    Args:
        scalars: Where the mean of a pass goes.
    """

    def __init__(self, scalars: Scalars) -> None:
        self.pending = False  # whether batches were added since the mean was last taken
        self.latest: tuple[int, Scalar] | None = None  # step and mean of the pass, once taken
        self._scalars = scalars
        self._step = -1
        self._passes: dict[str, _Pass] = {}
        self._explicit = False

    def opens(self, step: int) -> bool:
        """Whether a batch evaluated after ``step`` optimizer steps is the first one of its pass."""
        return step != self._step

    def add(self, step: int, batch: Evaluated) -> None:
        """One batch was evaluated after ``step`` optimizer steps."""
        if step != self._step:
            self._step, self._passes = step, {}
        if self._explicit:
            return
        self.pending = True
        one = self._passes.setdefault(batch.function, _Pass())
        size, target = batch.output.shape[0], batch.target
        summed = batch.options.get("reduction") == "sum"
        counted = target if target is not None and not target.is_floating_point() else batch.output
        one.losses.append((batch.loss.detach(), size, counted.numel() if summed else 0))
        if target is None or batch.output.numel() > ELEMENTS:
            return
        output, target = batch.output.detach(), target.detach()
        one.constant = one.targets.evaluate(batch.function, output, target, batch.options)
        accuracy = predictions.accuracy(batch.function, output, target, batch.options)
        if accuracy is not None:
            one.hits.append((accuracy, size))

    def note(self, statistic: str, value: Scalar) -> None:
        """What else is known of the pass that is open."""
        self._scalars.keep(self._step, statistic, value)

    def observed(self, step: int, value: Scalar) -> None:
        """An explicit value; from now on only these count."""
        self._explicit, self.pending, self.latest = True, False, None
        self._passes.clear()
        self._scalars.keep(step, "val_loss", value)

    def settle(self, loss: Loss) -> None:
        """Take the mean of the pass so far: that of the training's own loss function, else of the first seen.

        Args:
            loss: The training's.
        """
        self.pending = False
        matching = [name for name in self._passes if loss.kind in KINDS.get(name, ())]
        one = self._passes[(matching or list(self._passes))[0]]
        samples = sum(size for _, size, _ in one.losses)
        if not samples:
            return
        whole = loss.summed and all(elements for *_, elements in one.losses)  # sums here and there
        parts = [value.float().mean() * size / (1 if whole else elements or 1) for value, size, elements in one.losses]
        self.latest = self._step, torch.stack(parts).sum() / samples
        self._scalars.keep(self._step, "val_loss", self.latest[1])
        if one.constant is not None and matching:
            scale = sum(elements for *_, elements in one.losses) / len(one.losses) if whole else 1.0
            self._scalars.keep(self._step, "val_constant_loss", one.constant * scale)
        if one.hits:
            hits = torch.stack([share * size for share, size in one.hits]).sum() / sum(size for _, size in one.hits)
            self._scalars.keep(self._step, "val_accuracy", hits)
