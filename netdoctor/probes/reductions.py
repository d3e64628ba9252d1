"""One batched pass on the device that reduces the samples of all slots to sums.

Padding is zero and every sum ignores zeros, so slots may be filled to different extents. Sums are taken in float64:
float32 would lose the std of data on an offset, and overflow or vanish on the squares of extreme gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

BLOCK = 2**18  # elements that a CPU reduces at once: 2 MB in double precision stay in its caches


def reduce_layers(
    values: Tensor,
    bounds: tuple[Tensor, Tensor] | None = None,
    of_units: bool = False,
    slots: Sequence[int] | None = None,
) -> Tensor:
    """Sums of each slot, [..., slots, 5 + units] in the order of `statistics.LayerSums.FIELDS`, then ``unit_high``.

    Args:
        values: [..., slots, rows, units], zero-padded.
        bounds: Indices of the slots whose elements are bounded, and the bound of each; None where no slot is.
        of_units: Append the sum of each unit, for other ranks have more samples of them: 5 + 2 units then.
        slots: Those that are filled: a CPU leaves out the others, whose sums are 0. All by default.
    """
    width = 5 + values.shape[-1] * (2 if of_units else 1)
    found = _by_slot(partial(_layer_sums, of_units=of_units), values, slots, width)
    if bounds is not None:
        bounded, limits = bounds
        found[..., bounded, 4] = _count(values[..., bounded, :, :].abs() > limits[:, None, None]).to(found.dtype)
    return found


def reduce_gradients(values: Tensor, slots: Sequence[int] | None = None) -> Tensor:
    """Sum of squares and number of elements that are not zero, [..., slots, 2] of [..., slots, rows, units].

    Args:
        values: Zero-padded.
        slots: Those that are filled: a CPU leaves out the others.
    """
    return _by_slot(_gradient_sums, values, slots, 2)


def reduce_parameters(
    values: Tensor, rounded: Tensor | None = None, of_rows: bool = False, narrow: Tensor | None = None
) -> Tensor:
    """Sums of each parameter, [steps, 11, parameters] in the order of `statistics.ParameterSums.FIELDS`.

    Args:
        values: [1 + steps, 4, parameters, rows, units], zero-padded: the parameters before and after the step and their
            gradients before and after clipping. Of the first step the last alone count: they are the previous ones.
        rounded: Which parameters have half precision: their unchanged elements are counted; None without any.
        of_rows: Append the sum of each row, for other ranks may hold more of it: 11 + rows then.
        narrow: Which parameters fill one row at most: a CPU leaves out the others of their rows; None without any.
    """
    steps, count, rows, units = len(values) - 1, *values.shape[2:]
    places, device = values.flatten(0, 2), values.device
    at = torch.arange(4 * count, 4 * count * (1 + steps), device=device).view(steps, 4, count)
    at = torch.cat((at, at[:, :1] - count), 1)  # of each parameter and, last, of its gradient in the step before
    found = values.new_zeros((steps, 11 + rows * of_rows, count), dtype=double_of(values))
    parameters = torch.arange(count, device=device)
    groups = [(parameters, rows)]
    if values.is_cpu and narrow is not None and steps * count * rows * units > BLOCK // 2:
        groups = [(parameters[~narrow], rows), (parameters[narrow], 1)]
    for some, most in groups:
        size = _block(2 * steps * most * units) if values.is_cpu else max(count, 1)
        for part in some.split(size) if len(some) else ():
            taken = places[:, :most].index_select(0, at[..., part].flatten())
            taken = taken.view(steps, 5, len(part), most, units)
            sums = _parameter_sums(taken, None if rounded is None else rounded[part], of_rows)
            found[:, : sums.shape[1], part] = sums
    return found


def double_of(values: Tensor) -> torch.dtype:
    """The most exact type that the device of ``values`` computes with."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def _by_slot(reduce: Callable[[Tensor], Tensor], values: Tensor, slots: Sequence[int] | None, width: int) -> Tensor:
    """``reduce`` of all slots, [..., slots, width], a few at a time on a CPU: what is read once stays in its caches."""
    every, leading, count, device = values.flatten(0, -3), values.shape[:-2], values.shape[-3], values.device
    if not values.is_cpu:
        return reduce(every).view(*leading, width)
    found = torch.zeros(len(every), width, dtype=torch.float64, device=device)
    filled = torch.tensor(range(count) if slots is None else slots, dtype=torch.long, device=device)
    at = (torch.arange(0, len(every), count, device=device)[:, None] + filled).flatten()
    for part in at.split(_block(every[0].numel())):
        if len(part):
            found.index_copy_(0, part, reduce(every.index_select(0, part)))
    return found.view(*leading, width)


def _block(elements: int) -> int:
    return max(BLOCK // elements, 1)


def _layer_sums(values: Tensor, of_units: bool) -> Tensor:
    double, exact = double_of(values), _exact(values)
    unit_high = values.amax(-2)
    high = torch.maximum(unit_high.amax(-1), -values.amin(-2).amin(-1)).to(double)
    unit_sums, squares = exact.sum(-2, dtype=double), _squares(exact)
    beyond = torch.full_like(squares, torch.nan)
    columns = torch.stack((unit_sums.sum(-1), squares, unit_sums.square().sum(-1), high, beyond), -1)
    return torch.cat((columns, unit_high.to(double), *((unit_sums,) if of_units else ())), -1)


def _gradient_sums(values: Tensor) -> Tensor:
    return torch.stack((_squares(_exact(values)), _count(values).to(double_of(values))), -1)


def _parameter_sums(values: Tensor, rounded: Tensor | None, of_rows: bool) -> Tensor:
    """[steps, 11, parameters] of [steps, 5, parameters, rows, units]; the last are the gradients of the step before."""
    double, exact = double_of(values), _exact(values)
    before, update, _, used, _ = exact.unbind(1)
    update.sub_(before)
    rows = before.sum(-1, dtype=double)
    counts = torch.full_like(rows[..., 0], torch.nan).expand(2, -1, -1)
    if rounded is not None:
        moving = used != 0
        counted = torch.stack((_count(moving), _count(moving & (update == 0)))).to(double)
        counts = torch.where(rounded, counted, counts)
    gain, product = (used[:, None] * exact[:, 1::3]).sum((-2, -1), dtype=double).unbind(1)
    others = torch.stack((product, rows.sum(-1), rows.square().sum(-1), gain, *counts), 1)
    return torch.cat((_squares(exact), others, *((rows.mT,) if of_rows else ())), 1)


def _exact(values: Tensor) -> Tensor:
    """In double precision, on a CPU: there, sums that convert as they go take two to three times as long."""
    return values.double() if values.is_cpu else values


def _squares(values: Tensor) -> Tensor:
    """Sum of squares of each slot, [...] of [..., rows, units]."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(-2), dim=-1, dtype=double_of(values))
    return norms.square()


def _count(values: Tensor) -> Tensor:
    """Number of elements of each slot that are not zero, [...] of [..., rows, units]: sums of flags take five times."""
    ones = torch.ne(values, 0, out=values.new_empty(values.shape, dtype=torch.float32))
    return ones.flatten(-2).sum(-1)
