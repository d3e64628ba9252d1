"""What of a tensor this rank holds: all of it, a shard, or the same shard as others."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from netdoctor.probes.sampling import plain

WHOLE = (0, 1)


@dataclass(frozen=True)
class Share:
    """A rank's part of a parameter.

    Attributes:
        elements: Here, and in all.
        units: Rows of the first dimension here, and in all.
        copies: How many ranks hold this same part.
        replicated: Whether it is the whole on every rank.
    """

    elements: tuple[int, int]
    units: tuple[int, int]
    copies: float
    replicated: bool

    @property
    def split_units(self) -> bool:
        """Whether other ranks hold other units."""
        return self.units[0] != self.units[1]


def share_of(parameter: Tensor, ranks: int) -> Share:
    """What this rank holds of a parameter that ``ranks`` of them train."""
    local = plain(parameter)
    elements = 0 if local is None else local.numel()
    units = (local.shape[0] if local is not None and local.ndim else 1) if elements else 0
    mesh: Any = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return Share((elements, elements), (units, units), float(ranks), True)
    sharded = [dimension for dimension, placement in enumerate(_placements(parameter)) if placement.is_shard()]
    parts = prod(mesh.size(dimension) for dimension in sharded)
    whole = parameter.shape[0] if parameter.ndim else 1
    split = any(_placements(parameter)[dimension].dim == 0 for dimension in sharded)
    # An even share of a split dimension is told from the whole by what is split, an empty one has no units.
    return Share((elements, parameter.numel()), (units, whole if split else units), ranks / parts, not sharded)


def part_of(tensor: Tensor, unit_axis: int) -> tuple[int, int]:
    """Which part of the units of an output is here, and how many parts there are: those of a DTensor."""
    mesh: Any = getattr(tensor, "device_mesh", None)
    index, parts = WHOLE
    for dimension, placement in enumerate(_placements(tensor) if mesh is not None else ()):
        if placement.is_shard(unit_axis % max(tensor.ndim, 1)):
            size = mesh.size(dimension)
            index, parts = index * size + mesh.get_local_rank(dimension), parts * size
    return index, parts


def part_by(module: nn.Module) -> tuple[int, int] | None:
    """The same from the weight of a layer that several ranks compute together; None where they do not.

    A linear layer that is split by units gives some of them on each rank, one that is split by inputs, all of them; with
    an embedding it is the other way round. What `fully_shard` splits is whole while the layer runs.
    """
    mesh = computed_on(module)
    weight: Any = module._parameters.get("weight")
    if mesh is None or mesh.ndim != 1 or not _placements(weight)[0].is_shard():
        return None
    by_units = _placements(weight)[0].dim == (1 if isinstance(module, nn.Embedding) else 0)
    return (mesh.get_local_rank(), mesh.size()) if by_units else WHOLE


def computed_on(module: nn.Module) -> Any:
    """The mesh of ranks that compute a layer together, while it runs; None where each computes it alone."""
    weight = module._parameters.get("weight")
    if weight is None or any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
        return None
    return getattr(weight, "device_mesh", None)


def _placements(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.placements)
