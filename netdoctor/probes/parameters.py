"""Samples of parameters and their gradients around an optimizer's step: gradient norms, clipping, measured updates."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import torch
from torch import nn

from netdoctor.facts import Parameter
from netdoctor.probes.sampling import Samples, plain
from netdoctor.statistics import Array, ParameterSums, parameter_statistics, reduce_parameters


class ParameterProbe:
    """Every parameter of the model on sampled steps; a parameter's place is its slot.

    Args:
        parameters: Tensor and facts of each parameter by name.
    """

    def __init__(self, parameters: dict[str, tuple[nn.Parameter, Parameter]]) -> None:
        self.tensors: list[nn.Parameter] = [tensor for tensor, _ in parameters.values()]
        self.facts: tuple[Parameter, ...] = tuple(facts for _, facts in parameters.values())
        count = len(self.tensors)
        self.before = Samples(count)
        self.after = Samples(count)
        self._buffers = (Samples(count), Samples(count), Samples(count))
        self.gradient, self.clipped, self.previous = self._buffers  # before clipping, as used, as used the step before
        self._sizes = np.array([float(facts.size) for facts in self.facts])
        self._units = np.array([float(min(facts.shape[0], 64)) if facts.shape else 1.0 for facts in self.facts])

    def begin(self) -> None:
        """Start a step: the gradients that the last one used become the previous ones."""
        self.previous = self.clipped
        self.gradient, self.clipped = (buffer for buffer in self._buffers if buffer is not self.previous)
        for samples in (self.before, self.after, self.gradient, self.clipped):
            samples.clear()

    def see_parameters(self, into: Samples) -> None:
        """Sample every parameter: anew each time, for writes through ``.data`` leave no trace."""
        into.clear()
        into.store_all([plain(tensor) for tensor in self.tensors], 0)

    def see_accumulated(self) -> None:
        """Sample the gradients at the end of a backward pass; the last pass of a step counts."""
        self.gradient.clear()
        self.gradient.store_all([None if t.grad is None else plain(t.grad) for t in self.tensors], 0)

    def see_used(self, names: Container[str]) -> None:
        """Sample the gradients of the parameters of those names as their optimizer will use them."""
        used = [t.grad if f.name in names else None for t, f in zip(self.tensors, self.facts, strict=True)]
        self.clipped.store_all([None if gradient is None else plain(gradient) for gradient in used], 0)

    def measure(self, stepped: Container[str], scale: float = 1.0) -> dict[str, Array]:
        """Statistics of every parameter and of the whole model; NaN where a parameter was not seen.

        Args:
            stepped: Names of the parameters that the optimizer holds.
            scale: The gradient scaler's scale, still on the gradients before clipping.
        """
        seen_before_clipping = self.gradient.filled.any()
        gradient = self.gradient if seen_before_clipping else self.clipped  # else backward ran out of sight
        sums = np.full((len(self.tensors), len(ParameterSums.FIELDS)), np.nan)
        for device, before in self.before.values.items():
            others = (samples.values.get(device) for samples in (self.after, gradient, self.clipped, self.previous))
            known = [torch.zeros_like(before) if values is None else values for values in others]
            reduced = reduce_parameters(before, *known).cpu().numpy()
            here = self.before.on(device)
            sums[here] = reduced[here]
        columns = dict(zip(ParameterSums.FIELDS, sums.T, strict=True))
        for field, samples in (("gradient", gradient), ("clipped", self.clipped), ("previous", self.previous)):
            columns[field] = np.where(samples.filled, columns[field], np.nan)
        if seen_before_clipping:
            columns["gradient"] = columns["gradient"] / scale**2
        held = np.array([facts.name in stepped for facts in self.facts])
        columns["update"] = np.where(held, columns["update"], np.nan)
        count = np.where(self.before.filled, self.before.rows * self.before.units, 0).astype(float)
        measured = parameter_statistics(ParameterSums(count, **columns), self._units, self._sizes)
        missing = np.array([tensor.grad is None for tensor in self.tensors])
        trainable = np.array([tensor.requires_grad for tensor in self.tensors])
        measured["gradient_missing"] = np.where(held & trainable, missing, np.nan).astype(float)
        seen = np.isfinite(count) & (count > 0)
        measured["non_finite_weight"] = np.where(seen, ~np.isfinite(columns["weight"]), np.nan).astype(float)
        bad = ~np.isfinite(columns["gradient"]) & gradient.filled
        measured["non_finite_gradient"] = np.where(gradient.filled, bad, np.nan).astype(float)
        return measured
