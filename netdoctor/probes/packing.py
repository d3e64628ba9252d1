"""A sampled step as two flat arrays that are added up over the ranks, and back.

The layout is the same on all ranks: it depends on the layers, the parameters and the steps since the last sample, and on
nothing that a rank has seen. What a rank has not seen counts as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from netdoctor.probes.activations import LayerSample
from netdoctor.probes.parameters import MOST, ParameterSample
from netdoctor.probes.readings import Sample
from netdoctor.probes.sampling import UNITS
from netdoctor.probes.sharding import Share
from netdoctor.statistics import Array, LayerSums, Mask, ParameterSums

FIELDS, COLUMNS = LayerSums.FIELDS, len(LayerSums.FIELDS)
MASKS = ("gradient", "clipped", "previous", "present")


@dataclass(frozen=True)
class Arrived:
    """Numbers that are on the host."""

    values: Array
    ready: bool = True

    def numpy(self) -> Array:
        return self.values


@dataclass(frozen=True)
class Packed:
    """What is added up, and what the largest is taken of."""

    sums: Array
    highs: Array

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes + self.highs.nbytes


@dataclass(frozen=True)
class Form:
    """What the ranks have to know of each other to add up a step.

    Attributes:
        ranks: How many there are.
        replicas: How many of them see different samples.
        shares: What this rank holds of each parameter.
    """

    ranks: int
    replicas: float
    shares: Sequence[Share]


def pack(sample: Sample, losses: Mapping[int, float], steps: Sequence[int], plan: Array, form: Form) -> Packed:
    """This rank's part.

    Args:
        sample: Has arrived.
        losses: The loss of each step where there was one.
        steps: Those since the last sample.
        plan: Of these numbers the largest counts.
        form: What the ranks have to know of each other.
    """
    outputs, gradients = _layers(sample.layers)
    fields, rows, masks = _parameters(sample.parameters, form)
    known = np.array([losses.get(step, np.nan) for step in steps])
    seen = np.array([step in losses for step in steps], float)
    sums = (*outputs, *gradients, fields, rows, masks, np.where(seen > 0, known, 0.0), seen)
    marks = _fingerprints(sample, form)
    units = np.where(sample.layers.rows > 0, _part_units(sample.layers)[1], 0)
    highs = (_columns(sample.layers)["high"], units, marks, -marks, plan)
    return Packed(*(np.concatenate([np.asarray(part, float).ravel() for part in parts]) for parts in (sums, highs)))


@dataclass(frozen=True)
class Unpacked:
    """The step of all ranks together.

    Attributes:
        sample: As one process would have taken it.
        losses: Mean loss of each step.
        plan: The largest of the numbers that were handed in.
    """

    sample: Sample
    losses: dict[int, float]
    plan: Array


def unpack(packed: Packed, sample: Sample, steps: Sequence[int], form: Form) -> Unpacked:
    """What the ranks know together, given this rank's own sample."""
    slots, layers, parameters = len(sample.layers.rows), len(sample.layers.sources), len(sample.parameters.count)
    fields = len(ParameterSums.FIELDS)
    sums = _Cutter(packed.sums)
    rows, squares, beyond = sums.take(slots), sums.take(slots), sums.take(slots)
    unit_sums, active = sums.take(slots, UNITS), sums.take(layers, UNITS)
    of_gradients, elements = sums.take(layers, 2), sums.take(layers)
    columns, row_sums, masks = sums.take(fields, parameters), sums.take(parameters, MOST), sums.take(4, parameters)
    losses, counts = sums.take(len(steps)), sums.take(len(steps))
    highs = _Cutter(packed.highs)
    high, units = highs.take(slots), highs.take(slots)
    largest, least = highs.take(3, parameters), -highs.take(3, parameters)

    unit_high = np.zeros((slots, UNITS))
    unit_high[:layers] = np.where(active > 0, 1.0, 0.0)
    together = {
        "total": unit_sums.sum(1),
        "squares": squares,
        "unit_squares": np.square(unit_sums).sum(1),
        "high": high,
        "beyond": beyond,
    }
    reduced = np.concatenate((np.stack([together[name] for name in FIELDS], 1), unit_high), 1)
    everywhere = np.ones(slots, bool)
    of_layers = replace(
        sample.layers,
        rows=rows,
        units=units.astype(np.int64),
        gradients=elements,
        parts=((everywhere, Arrived(reduced), Arrived(of_gradients)),),
    )
    sizes = np.array([share.elements[1] for share in form.shares], float)
    names = list(ParameterSums.FIELDS)
    columns[names.index("between_units")] = _between(columns[names.index("between_units")], row_sums, sample, form)
    gradient, clipped, previous, present = masks > 0
    of_parameters = replace(
        sample.parameters,
        count=sizes.astype(np.int64),
        gradient=gradient,
        clipped=clipped,
        previous=previous,
        missing=~present,
        parts=((np.ones(parameters, bool), Arrived(columns)),),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.maximum(np.abs(largest), np.abs(least))
        spread = np.where(scale > 0, (largest - least) / scale, 0.0)
        spread = np.where(np.isfinite(largest), spread, np.nan).max(0, initial=0.0, where=np.isfinite(largest))
        mean = losses / counts
    replicated = np.array([share.replicated for share in form.shares])
    whole = replace(sample, layers=of_layers, parameters=of_parameters, spread=np.where(replicated, spread, np.nan))
    means = {step: float(loss) for step, loss, count in zip(steps, mean, counts, strict=True) if count}
    return Unpacked(whole, means, highs.rest())


class _Cutter:
    """Takes arrays off the front of a flat one."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def take(self, *shape: int) -> Array:
        size = int(np.prod(shape))
        front, self._values = self._values[:size], self._values[size:]
        return front.reshape(shape).copy()

    def rest(self) -> Array:
        return self._values.copy()
