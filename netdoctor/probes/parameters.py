"""Samples of parameters and their gradients around an optimizer's step: gradient norms, clipping, measured updates."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netdoctor.facts import Parameter
from netdoctor.probes.reductions import reduce_parameters
from netdoctor.probes.sampling import Samples, plain
from netdoctor.probes.transfer import Transfer, sent
from netdoctor.statistics import Mask

MOST = 32  # units, and weights of each: a layer's gradient rms is known to 18 % even where each unit has its own scale
HALVES = (torch.bfloat16, torch.float16)
BEFORE, AFTER, GRADIENT, *USED = range(5)  # places in the buffer; the two last hold this step's and the last one's


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
    parts: tuple[tuple[Mask, Transfer], ...]

    @property
    def ready(self) -> bool:
        """Whether the numbers have arrived on the host."""
        waiting = [transfer for _, transfer in self.parts]
        return all(t.ready for t in ([*waiting, self.scale] if isinstance(self.scale, Transfer) else waiting))

    def unscale(self) -> float:
        """``scale`` as a number."""
        return float(self.scale.numpy()) if isinstance(self.scale, Transfer) else self.scale


@dataclass(frozen=True)
class _Standing:
    """Copies to be made again and again, as long as each parameter stays where it is in memory."""

    at: list[tuple[int, torch.Size]]
    targets: list[Tensor]
    sources: list[Tensor]
    filled: Mask


class ParameterProbe:
    """Every parameter of the model on sampled steps; a parameter's place is its slot in each fifth of the buffer.

    Args:
        parameters: Tensor and facts of each parameter by name.
    """

    def __init__(self, parameters: dict[str, tuple[nn.Parameter, Parameter]]) -> None:
        self.tensors: list[nn.Parameter] = [tensor for tensor, _ in parameters.values()]
        self.facts: tuple[Parameter, ...] = tuple(facts for _, facts in parameters.values())
        self._samples = Samples(5 * len(self.tensors), MOST, MOST)
        self._used, self._used_before = USED
        self._standing: dict[int, _Standing] = {}

    def begin(self) -> None:
        """Start a step: the gradients that the last one used become the previous ones."""
        self._used, self._used_before = self._used_before, self._used
        for place in (BEFORE, AFTER, GRADIENT, self._used):
            self._filled(place)[:] = False

    @property
    def trainable(self) -> list[bool]:
        """Which parameters ask for a gradient now."""
        return [tensor.requires_grad for tensor in self.tensors]

    @property
    def sampled(self) -> bool:
        """Whether the parameters before this step were sampled."""
        return bool(self._filled(BEFORE).any())

    def see_before(self) -> None:
        """Sample every parameter before the step."""
        self._see(BEFORE)

    def see_after(self) -> None:
        """Sample every parameter after the step: anew, for writes through ``.data`` leave no trace."""
        self._see(AFTER)

    def see_accumulated(self) -> None:
        """Sample the gradients at the end of a backward pass; the last pass of a step counts."""
        self._filled(GRADIENT)[:] = False
        self._copy(GRADIENT, [tensor.grad for tensor in self.tensors])

    def see_used(self, names: Container[str]) -> None:
        """Sample the gradients of the parameters of those names as their optimizer will use them."""
        gradients = [t.grad if f.name in names else None for t, f in zip(self.tensors, self.facts, strict=True)]
        self._copy(self._used, gradients)

    def reduce(
        self, stepped: Container[str], scale: Tensor | float | None = None, fused: bool = False
    ) -> ParameterSample:
        """Reduce what was sampled to sums, and send these on their way to the host.

        Args:
            stepped: Names of the parameters that the optimizer holds.
            scale: The gradient scaler's scale.
            fused: Whether the optimizer itself takes it off the gradients.
        """
        seen = self._filled(GRADIENT).any()
        gradient = GRADIENT if seen else self._used  # else backward ran out of sight
        order = [BEFORE, AFTER, gradient, self._used, self._used_before]
        rounded = [slot for slot, tensor in enumerate(self.tensors) if tensor.dtype in HALVES]
        parts = []
        for device, values in self._samples.values.items():
            places = values.view(5, len(self.tensors), *values.shape[1:])
            places[AFTER] -= places[BEFORE]
            sums = reduce_parameters(places, order, sent(rounded, device) if rounded else None)
            parts.append((self._samples.on(device)[: len(self.tensors)], Transfer(sums)))
        first = slice(len(self.tensors))
        scale = scale if (seen or fused) and scale is not None else 1.0
        return ParameterSample(
            count=np.where(self._filled(BEFORE), self._samples.rows[first] * self._samples.units[first], 0),
            gradient=self._filled(gradient).copy(),
            clipped=self._filled(self._used).copy(),
            previous=self._filled(self._used_before).copy(),
            held=np.array([facts.name in stepped for facts in self.facts]),
            trainable=np.array(self.trainable),
            missing=np.array([tensor.grad is None for tensor in self.tensors]),
            scale=Transfer(scale) if isinstance(scale, Tensor) else scale,
            fused=fused,
            parts=tuple(parts),
        )

    def _filled(self, place: int) -> Mask:
        count = len(self.tensors)
        return self._samples.filled[place * count : (place + 1) * count]

    def _see(self, place: int) -> None:
        if any(type(tensor) is not nn.Parameter for tensor in self.tensors):  # a DTensor has no place of its own
            self._copy(place, self.tensors)
            return
        at = [(tensor.data_ptr(), tensor.shape) for tensor in self.tensors]
        standing = self._standing.get(place)
        with torch.no_grad():
            if standing is None or standing.at != at:
                pairs = self._pairs(place, self.tensors)
                standing = self._standing[place] = _Standing(at, *pairs, self._filled(place).copy())
            self._filled(place)[:] = standing.filled
            torch._foreach_copy_(standing.targets, standing.sources)

    def _copy(self, place: int, tensors: Sequence[Tensor | None]) -> None:
        with torch.no_grad():
            targets, sources = self._pairs(place, tensors)
            if targets:
                torch._foreach_copy_(targets, sources)

    def _pairs(self, place: int, tensors: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
        """Views of the slots and of the tensors that are to be copied there; slots with None keep what they have."""
        targets, sources = [], []
        first = place * len(self.tensors)
        for slot, tensor in enumerate(tensors, first):
            local = None if tensor is None else plain(tensor)
            pair = None if local is None else self._samples.pair(slot, local, 0)
            if pair is not None:
                targets.append(pair[0])
                sources.append(pair[1])
        return targets, sources
