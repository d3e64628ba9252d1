"""Parts of tensors whose other parts other ranks hold, and what of a sample of the whole lies in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from netdoctor.probes.transfer import sent

if TYPE_CHECKING:
    from netdoctor.probes.sampling import Cut


@dataclass(frozen=True)
class Block:
    """A part of a tensor whose other parts other ranks hold.

    Attributes:
        shape: Of the whole tensor.
        offset: Where the part begins, in each dimension.
        first: Whether this is the first of the ranks that hold this part.
        whole: Whether every rank holds the whole.
        split_units: Whether the units, along the first dimension, lie on several ranks.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    first: bool = True
    whole: bool = False
    split_units: bool = False


@dataclass(frozen=True)
class Part:
    """Which elements of a cut of a whole tensor lie in a block of it.

    Attributes:
        at: Offset of each element of the cut in the block's memory, from its first element; 0 of those elsewhere.
        here: Which are here.
        extent: Of the memory that they lie in.
        count: How many are here.
    """

    at: Tensor
    here: Tensor
    extent: int
    count: int

    @classmethod
    def of(cls, where: Cut, block: Block, local: Tensor) -> Part:
        """The part of a cut of a contiguous tensor that is in ``local``, which is a block of it."""
        offsets = np.full((1,) * len(where.size), where.offset)
        for axis, (count, step) in enumerate(zip(where.size, where.stride, strict=True)):
            along = [1] * len(where.size)
            along[axis] = count
            offsets = offsets + (np.arange(count) * step).reshape(along)
        at, here = np.zeros_like(offsets), np.ones(offsets.shape, np.bool_)
        places = np.unravel_index(offsets, block.shape) if block.shape and offsets.size else ()
        for place, begin, extent, step in zip(places, block.offset, local.shape, local.stride(), strict=False):
            here &= (place >= begin) & (place < begin + extent)
            at += (place - begin) * step
        at = np.where(here, at, 0)
        device = local.device
        return cls(
            sent(at, device),
            sent(here, device),
            int(at.max(initial=0)) + 1,
            int(here.sum()),
        )

    def take(self, local: Tensor) -> Tensor:
        """The elements of the cut, 0 where they are elsewhere."""
        if not self.count:
            return torch.zeros(self.at.shape, dtype=local.dtype, device=local.device)
        flat = local.as_strided((self.extent,), (1,), local.storage_offset())
        return torch.where(self.here, flat[self.at], 0)
