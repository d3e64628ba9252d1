"""Samples of parameters and their gradients around an optimizer's step: gradient norms, clipping, measured updates."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from netdoctor.facts import Parameter
from netdoctor.probes.blocks import Block
from netdoctor.probes.planes import Planes
from netdoctor.probes.reductions import double_of, reduce_parameters
from netdoctor.probes.sampled import ParameterSample
from netdoctor.probes.sampling import plain
from netdoctor.probes.sharding import block_of, part_of
from netdoctor.probes.transfer import Transfer, sent, together
from netdoctor.statistics import Mask

MOST = 32  # units, and weights of each: a layer's gradient rms is known to 18 % even where each unit has its own scale
HALVES = (torch.bfloat16, torch.float16)
BEFORE, AFTER, GRADIENT, USED = range(4)  # places in a plane


@dataclass(frozen=True)
class _Standing:
    """Copies to be made again and again, as long as each parameter stays where it is in memory."""

    at: list[tuple[int, torch.Size]]
    targets: list[Tensor]
    sources: list[Tensor]
    filled: Mask


class ParameterProbe:
    """Every parameter of the model on sampled steps; a parameter's place is its slot in each quarter of a plane.

    Args:
        parameters: Tensor and facts of each parameter by name.
        planes: Steps whose samples are reduced together.

    Attributes:
        tensors: The parameters.
        facts: Their facts.
        blocks: What of each this rank holds, None where it is alone with it; sampled is what of a sample of the whole
            lies therein.
        shared: Whether other ranks are asked for their samples.
    """

    def __init__(self, parameters: dict[str, tuple[nn.Parameter, Parameter]], planes: int = 1) -> None:
        self.tensors: list[nn.Parameter] = [tensor for tensor, _ in parameters.values()]
        self.facts: tuple[Parameter, ...] = tuple(facts for _, facts in parameters.values())
        self._planes = Planes(4 * len(self.tensors), MOST, MOST, planes, kept=slice(USED * len(self.tensors), None))
        self._accumulated = False  # whether gradients were seen at the end of a backward pass of this step
        self._standing: dict[tuple[int, int], _Standing] = {}  # of each plane and place
        self._known_held: tuple[Collection[str], int, Mask] | None = None
        self._gradients: Sequence[Tensor | None] = ()  # when backward ended, where all of them were copied
        self._gradients_at: list[int] = []  # their places in memory
        self._views: list[Tensor] = []  # what was copied of each
        self.blocks: list[Block | None] = [block_of(tensor) for tensor in self.tensors]
        self.shared = False

    @property
    def whole(self) -> list[int]:
        """Places of the parameters that every rank holds whole."""
        return [place for place, block in enumerate(self.blocks) if block is None or block.whole]

    def begin(self) -> None:
        """Start a step: the gradients that the last one used become the previous ones."""
        self._gradients, self._views = (), []
        self._accumulated = False
        self._planes.advance()
        self._planes.clear()

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
        gradients = [tensor.grad for tensor in self.tensors]
        self._gradients = ()
        self._views = self._copy(GRADIENT, gradients)
        self._accumulated = len(self._views) > 0
        if len(self._views) == len(gradients):
            local = [gradient for gradient in gradients if type(gradient) is Tensor]
            if len(local) == len(gradients):
                self._gradients, self._gradients_at = gradients, [gradient.data_ptr() for gradient in local]

    def see_used(self, names: Container[str]) -> None:
        """Sample the gradients of the parameters of those names as their optimizer will use them."""
        gradients = [t.grad if f.name in names else None for t, f in zip(self.tensors, self.facts, strict=True)]
        self._copy(USED, gradients)
        self._gradients, self._views = (), []

    def reduce(
        self,
        stepped: Collection[str],
        scale: Tensor | float | None = None,
        fused: bool = False,
        at_once: bool = True,
    ) -> ParameterSample:
        """What was sampled, as sums on their way to the host.

        Args:
            stepped: Names of the parameters that the optimizer holds.
            scale: The gradient scaler's scale.
            fused: Whether the optimizer itself takes it off the gradients.
            at_once: Do not wait for the next samples: this one is not the last of its step.
        """
        samples, first = self._planes.present, slice(len(self.tensors))
        seen = self._accumulated
        if not seen:  # backward ran out of sight, or is not over yet
            self._filled(GRADIENT)[:] = self._filled(USED)
            for values in samples.values.values():
                places = values.unflatten(0, (4, -1))
                places[GRADIENT] = places[USED]
        sums = self._planes.take(self._sums, at_once or self.shared)
        count, here = samples.counts()
        scale = scale if (seen or fused) and scale is not None else 1.0
        return ParameterSample(
            count=count[first],
            here=here[first],
            totals=Transfer(self._totals()) if self.shared and self.whole else None,
            gradient=self._filled(GRADIENT).copy(),
            clipped=self._filled(USED).copy(),
            previous=self._planes.past.filled[USED * len(self.tensors) :].copy(),
            held=self._held(stepped),
            trainable=np.array(self.trainable),
            missing=np.array([tensor.grad is None for tensor in self.tensors]),
            scale=Transfer(scale) if isinstance(scale, Tensor) else scale,
            fused=fused,
            parts=tuple((samples.on(device)[first], found) for device, found in sums.items()),
        )

    def _held(self, stepped: Collection[str]) -> Mask:
        """Which parameters the optimizer holds, in the same array as long as these are the same."""
        known = self._known_held
        if known is None or known[0] is not stepped or known[1] != len(stepped):
            held = np.array([facts.name in stepped for facts in self.facts])
            known = self._known_held = stepped, len(stepped), held
        return known[2]

    def _sums(self, first: int, end: int) -> dict[torch.device, Tensor]:
        rounded = [tensor.dtype in HALVES for tensor in self.tensors]
        narrow = torch.from_numpy(self._planes.rows(first, end)[: len(self.tensors)] <= 1)
        found = {}
        for device, values in self._planes.values.items():
            planes = values.unflatten(1, (4, -1))
            unchanged = sent(rounded, device) if any(rounded) else None
            found[device] = reduce_parameters(planes[first - 1 : end], unchanged, self.shared, narrow)
        return found

    def _totals(self) -> Tensor:
        """Sum of all elements of each parameter that every rank holds whole."""
        with torch.no_grad():
            here = [plain(self.tensors[place]) for place in self.whole]
            unknown = torch.full((), torch.nan, dtype=torch.float64, device="cpu")
            return together([unknown if local is None else local.sum(dtype=double_of(local)) for local in here])

    def leave(self) -> None:
        """Sample what is on this rank from now on, for nobody else is asked."""
        self.shared = False
        if any(self.blocks):
            self.blocks = [None] * len(self.blocks)
            self._planes.clear()

    def _filled(self, place: int) -> Mask:
        count = len(self.tensors)
        return self._planes.present.filled[place * count : (place + 1) * count]

    def _see(self, place: int) -> None:
        if any(type(tensor) is not nn.Parameter for tensor in self.tensors):  # a DTensor has no place of its own
            self._copy(place, self.tensors)
            return
        at = [(tensor.data_ptr(), tensor.shape) for tensor in self.tensors]
        key = self._planes.place, place
        standing = self._standing.get(key)
        with torch.no_grad():
            if standing is None or standing.at != at:
                pairs = self._pairs(place, self.tensors)
                standing = self._standing[key] = _Standing(at, *pairs, self._filled(place).copy())
            self._filled(place)[:] = standing.filled
            torch._foreach_copy_(standing.targets, standing.sources)

    def _copy(self, place: int, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """Copy samples of the tensors; gives the views of them that were copied."""
        with torch.no_grad():
            targets, sources = self._pairs(place, tensors)
            if targets:
                torch._foreach_copy_(targets, sources)
        return sources

    def _view(self, place: int, gradient: Tensor) -> Tensor | None:
        """The view of a gradient that was copied when the backward pass ended, if it still shows the gradient."""
        if not self._gradients or self._gradients[place] is not gradient:
            return None
        return self._views[place] if gradient.data_ptr() == self._gradients_at[place] else None

    def _pairs(self, place: int, tensors: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
        """Views of the slots and of the tensors that are to be copied there; slots with None keep what they have."""
        targets, sources = [], []
        first = place * len(self.tensors)
        for slot, tensor in enumerate(tensors, first):
            local = None if tensor is None else plain(tensor)
            block = self.blocks[slot - first]
            if block is not None and local is not None and tensor is not None:
                own = plain(self.tensors[slot - first])
                local = None if own is None else part_of(tensor, local, block, own)
            if tensor is None or local is None:
                continue
            pair = self._planes.present.pair(slot, local, 0, block, self._view(slot - first, tensor))
            if pair is not None:
                targets.append(pair[0])
                sources.append(pair[1])
        return targets, sources
