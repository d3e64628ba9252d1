"""What of a tensor this rank holds: all of it, or a block, alone or as others do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from netdoctor.probes.blocks import Block


def block_of(parameter: Tensor) -> Block | None:
    """Which part of a DTensor is here; None for other tensors, and for sums that are not yet added up."""
    mesh: Any = getattr(parameter, "device_mesh", None)
    placements: Sequence[Any] = getattr(parameter, "placements", ())
    if mesh is None or pending(parameter):
        return None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(parameter.shape, mesh, placements)
    here = mesh.get_coordinate() or (1,) * len(placements)
    copies = [place for place, placement in zip(here, placements, strict=True) if placement.is_replicate()]
    sharded = [placement.dim for placement in placements if not placement.is_replicate()]
    first = not any(copies) and 0 in mesh.mesh  # other meshes of the kind hold copies, too
    return Block(tuple(parameter.shape), tuple(offset), first, not sharded, 0 in sharded)


def part_of(tensor: Tensor, local: Tensor, block: Block, parameter: Tensor) -> Tensor | None:
    """What a DTensor holds of a block; None where it does not hold all of it, or not added up yet.

    Args:
        tensor: Of the parameter's shape, sharded in the same way or less: its gradient.
        local: What is here of it.
        block: The part of the parameter that is here.
        parameter: That part.
    """
    held = block_of(tensor)
    if held is None:
        return None
    for axis, (begin, wanted, extent) in enumerate(zip(held.offset, block.offset, parameter.shape, strict=True)):
        if wanted < begin or wanted - begin + extent > local.shape[axis]:
            return None
        local = local.narrow(axis, wanted - begin, extent)
    return local


@dataclass(frozen=True)
class Span:
    """Units of a layer: those from ``begin`` on, of ``total``."""

    begin: int
    total: int


@dataclass(frozen=True)
class Split:
    """How several ranks compute one layer together.

    Attributes:
        output: Which units of the output this rank computes; None: all.
        input: Which units of the input it takes; None: all.
    """

    output: Span | None
    input: Span | None


def splits(model: nn.Module) -> tuple[dict[nn.Module, Split], int]:
    """The layers that are split between ranks which see the same samples, and between how many of them.

    A linear layer that is split by outputs gives some units on each rank, one that is split by inputs takes some; with
    an embedding it is the other way round. What `fully_shard` splits is whole while the layer runs.
    """
    found: dict[nn.Module, Split] = {}
    ranks = 1
    for name, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            mesh: Any = getattr(parameter, "device_mesh", None)
            if parameter is None or mesh is None:
                continue
            placements = _computing(parameter, _fully_sharded(model, name))
            ranks = max(ranks, int(np.prod([mesh.size(axis) for axis, _ in placements])))
            if leaf != "weight" or parameter.ndim < 2 or len(placements) != 1:
                continue
            axis, placement = placements[0]
            if not placement.is_shard():
                continue
            total, parts = parameter.shape[placement.dim], mesh.size(axis)
            span = Span(min(-(-total // parts) * mesh.get_local_rank(axis), total), total)  # as torch.chunk does
            of_outputs = placement.dim == (1 if isinstance(module, nn.Embedding) else 0)
            takes = span if not of_outputs and not isinstance(module, nn.Embedding) else None
            found[module] = Split(span if of_outputs else None, takes)
    return found, ranks


def pending(tensor: Tensor) -> bool:
    """Whether the ranks' parts of a DTensor have still to be added up."""
    return any(placement.is_partial() for placement in getattr(tensor, "placements", ()))


def input_block(split: Split | None, local: Tensor, axis: int) -> Block | None:
    """Which part of what a layer takes is here; None where it is all of it."""
    return None if split is None else along(split.input, local, axis)


def along(span: Span | None, local: Tensor, axis: int) -> Block | None:
    """The block of a tensor that holds the units ``span``; None where it holds all of them.

    Args:
        span: The units, None for all.
        local: What is here.
        axis: Dimension over units.
    """
    if span is None or not local.ndim or local.shape[axis] == span.total:
        return None
    shape, offset = list(local.shape), [0] * local.ndim
    shape[axis], offset[axis] = span.total, span.begin
    return Block(tuple(shape), tuple(offset))


def _fully_sharded(model: nn.Module, name: str) -> bool:
    """Whether `fully_shard` holds a module or one around it."""
    parts = name.split(".") if name else []
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    return any(kind.__name__ == "FSDPModule" for module in around for kind in type(module).__mro__)


def _computing(parameter: Any, fully_sharded: bool) -> list[tuple[int, Any]]:
    """Mesh dimensions, with placements, over which a layer is computed together: `fully_shard`'s come before them."""
    placements = list(enumerate(parameter.placements))
    if not fully_sharded:
        return placements
    first = next((axis for axis, placement in placements if not placement.is_replicate()), len(placements))
    return placements[first + 1 :]
