"""What one sampled step tells of the layers and of the parameters, perhaps still on its way from the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netdoctor.probes.planes import Deferred
from netdoctor.probes.transfer import Transfer
from netdoctor.statistics import Array, Mask


@dataclass(frozen=True)
class LayerSample:
    """What one sampled step tells of the layers, perhaps still on its way from the device.

    Attributes:
        rows: Sampled rows of each slot, 0 where it was not filled; the slots of the layers, then those of inputs. Of
            a layer that several ranks compute together, the share of them that this one has sampled.
        units: Sampled units of each slot.
        gradients: Sampled elements of the gradient at each layer's output.
        sources: Slot that holds the input of each layer, -1 where it was not seen.
        evaluating: Of each norm and dropout layer, whether it ran in evaluation mode; NaN for others.
        parts: For each device: which slots were sampled there, what `reduce_layers` made of them, and what
            `reduce_gradients` made of the gradients.
    """

    rows: Array
    units: NDArray[np.int64]
    gradients: NDArray[np.int64]
    sources: NDArray[np.int64]
    evaluating: Array
    parts: tuple[tuple[Mask, Transfer | Deferred, Transfer | Deferred], ...]

    @property
    def ready(self) -> bool:
        """Whether the numbers have arrived on the host."""
        return all(sums.ready and gradients.ready for _, sums, gradients in self.parts)


@dataclass(frozen=True)
class ParameterSample:
    """What one sampled step tells of the parameters, perhaps still on its way from the device.

    Attributes:
        count: Sampled elements of each parameter.
        gradient: Which gradients were seen before clipping.
        clipped: Which were seen as the optimizer used them.
        previous: Which were seen so in the step before.
        held: Which parameters the optimizer holds.
        trainable: Which ask for a gradient.
        missing: Which have none.
        scale: The gradient scaler's scale, still on the gradients before clipping; 1 without one.
        fused: Whether it is still on those that the step used, for the optimizer takes it off.
        parts: For each device: which parameters are there, and what `reduce_parameters` made of them.
        here: Sampled elements of each parameter that this rank holds.
        totals: Of the parameters that every rank holds whole, the sum of all elements after the step; None where no
            other rank is asked for its own.
    """

    count: NDArray[np.int64]
    gradient: Mask
    clipped: Mask
    previous: Mask
    held: Mask
    trainable: Mask
    missing: Mask
    scale: Transfer | float
    fused: bool
    parts: tuple[tuple[Mask, Transfer | Deferred], ...]
    here: NDArray[np.int64]
    totals: Transfer | None = None

    @property
    def ready(self) -> bool:
        """Whether the numbers have arrived on the host."""
        waiting = [*(transfer for _, transfer in self.parts), self.scale, self.totals]
        return all(transfer.ready for transfer in waiting if isinstance(transfer, (Transfer, Deferred)))

    def unscale(self) -> float:
        """``scale`` as a number."""
        return float(self.scale.numpy()) if isinstance(self.scale, Transfer) else self.scale
