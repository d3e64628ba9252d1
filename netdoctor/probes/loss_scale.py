"""The gradient scaler's scale, and the steps that it left out."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from netdoctor.probes.scalars import Scalars


class LossScale:
    """Counts and keeps without waiting for a device."""

    def __init__(self, scalars: Scalars) -> None:
        self._scalars = scalars
        self._skipped: Tensor | float = 0.0

    def skip(self) -> None:
        """A step was left out."""
        self._skipped = self._skipped + 1.0

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimizer that works with the scaler leaves a step out by itself."""
        found: Tensor | None = getattr(optimizer, "found_inf", None)
        if found is not None:
            self._skipped = self._skipped + found

    def keep(self, step: int, scale: Tensor | None) -> Tensor | None:
        """Record the scale and return a copy of it: the scaler changes it in place."""
        if scale is None:
            return None
        copy = scale.detach().clone()
        self._scalars.keep(step, "loss_scale", copy)
        self._scalars.keep(step, "skipped_steps", self._skipped)
        return copy
