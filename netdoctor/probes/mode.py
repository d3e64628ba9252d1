"""The mode that a model runs in, and what it is given, in training and in validation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netdoctor.probes import norms
from netdoctor.probes.activations import ActivationProbe
from netdoctor.probes.curves import ValidationLosses
from netdoctor.probes.sampling import level
from netdoctor.probes.scalars import Scalars


class Mode:
    """Looks at the passes of one model."""

    def __init__(self, activations: ActivationProbe) -> None:
        self._activations = activations
        self._input: tuple[Tensor, Tensor] | None = None  # mean and standard deviation, in this sample

    def look(self) -> None:
        """Before the backward pass of a sampled step."""
        self._input = self._given(with_gradients=True)

    def keep(self, scalars: Scalars, step: int, model: nn.Module | None) -> None:
        """Record the mode and the input of a sampled step."""
        if model is not None:
            scalars.keep(step, "model_evaluation_mode", float(not model.training))
        if self._input is not None:
            scalars.keep(step, "model_input_mean", self._input[0])
            scalars.keep(step, "model_input_std", self._input[1])
            self._input = None

    def note_validation(self, validation: ValidationLosses) -> None:
        """Record those of the first batch of a validation pass."""
        share = norms.training_share(module for _, module in self._activations.modules())
        if share is not None:
            validation.note("val_training_share", share)
        given = self._given(with_gradients=False)
        if given is not None:
            validation.note("val_input_mean", given[0])
            validation.note("val_input_std", given[1])

    def _given(self, with_gradients: bool) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the model's last input, until it was looked at."""
        probe = self._activations
        if probe.given is None or probe.last_pass_with_gradients != with_gradients:
            return None
        with torch.no_grad():
            return level(probe.given)
