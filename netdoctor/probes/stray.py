"""Backward passes that reach a model whose weights nothing changes: no step, or an optimizer of other parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from netdoctor.probes.sampling import Samples, plain

TOLD = (20, 50, 100, 200, 500, 1000, 10000)  # counts at which it is told; judging costs time


class StrayPasses:
    """Counts the backward passes before the model's first optimizer step.

    Attributes:
        count: Backward passes that reached the model since something changed its weights.
        steps_elsewhere: Steps of optimizers that hold none of its parameters since then.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.count = 0
        self.steps_elsewhere = 0
        self._parameters = parameters
        self._forward_passes = 0
        self._weights: Samples | None = None

    def passed(self, forward_passes: int) -> bool:
        """A backward pass has ended; whether it is time to tell of it.

        Args:
            forward_passes: Of the model, so far: a backward pass without a new one is another model's.
        """
        if forward_passes == self._forward_passes or all(p.grad is None for p in self._parameters):
            return False
        self._forward_passes = forward_passes
        self.count += 1
        if self._weights is None:
            self._weights = self._sample()
        if self.count not in TOLD:
            return False
        now = self._sample()
        if all(bool((values == now.values[device]).all()) for device, values in self._weights.values.items()):
            return True
        told = self.count > TOLD[0]
        self.count, self.steps_elsewhere, self._weights = 0, 0, now
        return told  # that it is over

    def stepped(self, held: bool) -> StrayPasses | None:
        """An optimizer steps, one that holds parameters of the model or not; None ends the count."""
        self.steps_elsewhere += self.count > 0
        return None if held else self

    def _sample(self) -> Samples:
        samples = Samples(len(self._parameters))
        with torch.no_grad():
            for slot, parameter in enumerate(self._parameters):
                local = plain(parameter)
                if local is not None:
                    samples.store(slot, local, 0)
        return samples
