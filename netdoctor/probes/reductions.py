"""One batched pass on the device that reduces the samples of all slots to sums.

Padding is zero and every sum ignores zeros, so slots may be filled to different extents. Sums are taken in float64:
float32 would lose the std of data on an offset, and overflow or vanish on the squares of extreme gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32  # slots of 64 x 64 elements: 1 MB in double precision stays in the caches


def reduce_layers(values: Tensor, bounds: tuple[Tensor, Tensor] | None = None, of_units: bool = False) -> Tensor:
    """Sums of each slot, [..., slots, 5 + units] in the order of `statistics.LayerSums.FIELDS`, then ``unit_high``.

    Args:
        values: [..., slots, rows, units], zero-padded.
        bounds: Indices of the slots whose elements are bounded, and the bound of each; None where no slot is.
        of_units: Append the sum of each unit, for other ranks have more samples of them: 5 + 2 units then.
    """
    double = double_of(values)
    unit_high = values.amax(-2)
    high = torch.maximum(unit_high.amax(-1), -values.amin(-2).amin(-1))
    unit_sums, squares = _sums_and_squares(values)
    beyond = torch.full_like(squares, torch.nan)
    if bounds is not None:
        slots, limits = bounds
        beyond[..., slots] = (values[..., slots, :, :].abs() > limits[:, None, None]).sum((-2, -1)).to(double)
    columns = torch.stack((unit_sums.sum(-1), squares, unit_sums.square().sum(-1), high.to(double), beyond), -1)
    parts = (columns, unit_high.to(double), unit_sums)
    return torch.cat(parts if of_units else parts[:2], -1)


def reduce_gradients(values: Tensor) -> Tensor:
    """Sum of squares and number of elements that are not zero, [..., slots, 2] of [..., slots, rows, units]."""
    squares = _squares(values)
    return torch.stack((squares, values.count_nonzero((-2, -1)).to(squares.dtype)), -1)


def reduce_parameters(values: Tensor, previous: Tensor, rounded: Tensor | None = None, of_rows: bool = False) -> Tensor:
    """Sums of each parameter, [..., 11, parameters] in the order of `statistics.ParameterSums.FIELDS`.

    Args:
        values: [..., 4, parameters, rows, units], zero-padded: the parameters, their updates, and their gradients
            before and after clipping.
        previous: The gradients that the step before used, [..., parameters, rows, units].
        rounded: Indices of the parameters of half precision, whose unchanged elements are counted; None without any.
        of_rows: Append the sum of each row, for other ranks may hold more of it: 11 + rows then.
    """
    double = double_of(values)
    weight, update, _, used = values.unbind(-4)
    rows = weight.sum(-1, dtype=double)
    product = (used * previous).sum((-2, -1), dtype=double)
    gain = (used * update).sum((-2, -1), dtype=double)
    pulls = torch.full_like(product, torch.nan), torch.full_like(product, torch.nan)
    if rounded is not None:
        pulled = used[..., rounded, :, :] != 0
        for pull, which in zip(pulls, (pulled, pulled & (update[..., rounded, :, :] == 0)), strict=True):
            pull[..., rounded] = which.sum((-2, -1)).to(double)
    squares = _squares(values), _squares(previous)[..., None, :]
    others = torch.stack((product, rows.sum(-1), rows.square().sum(-1), gain, *pulls), -2)
    parts = (*squares, others)
    return torch.cat((*parts, rows.mT) if of_rows else parts, -2)


def double_of(values: Tensor) -> torch.dtype:
    """The most exact type that the device of ``values`` computes with."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def _squares(values: Tensor) -> Tensor:
    """Sum of squares of each slot, [...] of [..., rows, units]."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(-2), dim=-1, dtype=double_of(values))
    return norms.square()


def _sums_and_squares(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of each unit and sum of squares of each slot, [..., units] and [...] of [..., rows, units].

    On a CPU a few slots at a time are converted first: sums that convert as they go take two to three times as long.
    """
    if not values.is_cpu:
        return values.sum(-2, dtype=double_of(values)), _squares(values)
    sums = values.new_empty((*values.shape[:-2], values.shape[-1]), dtype=torch.float64)
    norms = values.new_empty(values.shape[:-2], dtype=torch.float64)
    exact = values.new_empty((BLOCK, *values.shape[-2:]), dtype=torch.float64)
    blocks = (part.split(BLOCK) for part in (values.flatten(0, -3), sums.flatten(0, -2), norms.flatten()))
    for some, of_units, of_slots in zip(*blocks, strict=True):
        block = exact[: len(some)].copy_(some)
        torch.sum(block, -2, out=of_units)
        torch.linalg.vector_norm(block.flatten(-2), dim=-1, out=of_slots)
    return sums, norms.square()
