"""A sampled step as two flat arrays that are combined over the ranks, and back.

The layout is the same on all ranks: it depends on the layers, the parameters and the steps since the last sample, and
on nothing that a rank has seen. What a rank has not seen counts as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from netdoctor.probes.named import Named
from netdoctor.probes.parameters import MOST
from netdoctor.probes.readings import Sample
from netdoctor.probes.sampled import LayerSample, ParameterSample
from netdoctor.probes.sampling import UNITS
from netdoctor.probes.transfer import Transfer
from netdoctor.statistics import Array, LayerSums, Mask, ParameterSums

ADDED = ("total", "squares", "beyond")  # fields of `LayerSums` that are added up as they are
MASKS = ("gradient", "clipped", "previous", "present")
LOSSES = 256  # means of losses in a packet: its size must not depend on what a rank believes to be the last sample


@dataclass(frozen=True)
class Form:
    """What has to be known of the ranks to combine their samples.

    Attributes:
        replicas: Between how many of them the batch is divided: the others compute layers together.
        speaks: Of each parameter, whether this rank tells of what it holds; one of those that hold the same does.
        split: Places of the parameters whose units lie on several ranks.
        whole: Places of those that every rank holds whole.
        names: Of all parameters.
        sizes: Elements of each.
    """

    replicas: int
    speaks: Mask
    split: tuple[int, ...]
    whole: tuple[int, ...]
    names: tuple[str, ...]
    sizes: Array


@dataclass(frozen=True)
class Packed:
    """What is added up, and what the largest is taken of; float64."""

    sums: Array
    highs: Array

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes + self.highs.nbytes


def packed_bytes(layers: int, inputs: int, parameters: int, split: int = 0, whole: int = 0) -> int:
    """Size of a step as one rank sends it.

    Args:
        layers: How many are watched.
        inputs: Of those whose input is sampled apart.
        parameters: How many the model has.
        split: Of those whose units lie on several ranks.
        whole: Of those that every rank holds whole.
    """
    slots = layers + inputs
    sums = slots * (1 + len(ADDED) + UNITS) + layers * (UNITS + 3)
    sums += parameters * (len(ParameterSums.FIELDS) + len(MASKS)) + split * MOST + 2 * LOSSES
    return 8 * (sums + 2 * slots + 2 * whole + 3)


def pack(sample: Sample, losses: Mapping[int, float], steps: Sequence[int], interval: int, form: Form) -> Packed:
    """This rank's part.

    Args:
        sample: Has arrived.
        losses: The loss of each step where there was one.
        steps: Those since the last sample.
        interval: Steps that this rank would wait for its next sample; the largest counts.
        form: What is known of the ranks.
    """
    layers, parameters = sample.layers, sample.parameters
    fields, unit_high, unit_sums, gradients = _layers(layers)
    filled = layers.rows > 0
    own = len(layers.gradients)
    columns, rows = _parameters(parameters)
    masks = np.stack((parameters.gradient, parameters.clipped, parameters.previous, ~parameters.missing))
    sums = (
        layers.rows,
        *(np.where(filled, fields[name], 0.0) for name in ADDED),
        np.where(filled[:, None], unit_sums, 0.0),
        (filled[:, None] & ~(unit_high <= 0))[:own],  # NaN is not silence
        np.where(layers.gradients[:, None] > 0, gradients, 0.0) / (form.replicas**2, 1),
        layers.gradients,
        np.where(_told(parameters, form), columns, 0.0),
        np.where(form.speaks[list(form.split)], rows[:, list(form.split)], 0.0),
        masks,
        *_binned(losses, steps),
    )
    totals = np.zeros(0) if parameters.totals is None else parameters.totals.numpy()
    units = np.where(filled, layers.units, 0)
    agreed = [interval, sample.step, -sample.step]
    return Packed(_flat(sums), _flat((np.where(filled, fields["high"], 0.0), units, totals, -totals, agreed)))


@dataclass(frozen=True)
class Unpacked:
    """The step of all ranks together.

    Attributes:
        sample: As one process would have taken it.
        losses: Mean loss of each step over the ranks; of more than `LOSSES` steps the mean of neighbours is exact.
        interval: The largest of those that were handed in.
    """

    sample: Sample
    losses: dict[int, float]
    interval: int


def unpack(packed: Packed, sample: Sample, own: Mapping[int, float], steps: Sequence[int], form: Form) -> Unpacked:
    """What the ranks know together, given this rank's own sample and losses.

    Raises:
        RuntimeError: The ranks have sampled different steps.
    """
    slots, layers, parameters = len(sample.layers.rows), len(sample.layers.gradients), len(sample.parameters.count)
    sums, highs = _Cutter(packed.sums), _Cutter(packed.highs)
    rows = sums.take(slots)
    fields = {name: sums.take(slots) for name in ADDED}
    unit_sums, active = sums.take(slots, UNITS), sums.take(layers, UNITS)
    gradients, elements = sums.take(layers, 2), sums.take(layers)
    columns = sums.take(len(ParameterSums.FIELDS), parameters)
    split = list(form.split)
    columns[ParameterSums.FIELDS.index("between_units"), split] = np.square(sums.take(MOST, len(split))).sum(0)
    masks = dict(zip(MASKS, sums.take(len(MASKS), parameters) > 0, strict=True))
    losses, counts = sums.take(LOSSES), sums.take(LOSSES)
    fields["high"], units = highs.take(slots), highs.take(slots)
    largest, least = highs.take(len(form.whole)), -highs.take(len(form.whole))
    interval, latest, earliest = highs.take(3)
    if latest != -earliest:
        raise RuntimeError(f"they sampled step {-earliest:.0f} while others sampled step {latest:.0f}")
    fields["unit_squares"] = np.square(unit_sums).sum(1)

    unit_high = np.zeros((slots, UNITS))
    unit_high[:layers] = active > 0
    reduced = np.concatenate((np.stack([fields[name] for name in LayerSums.FIELDS], 1), unit_high), 1)
    of_layers = replace(
        sample.layers,
        rows=rows,
        units=units.astype(np.int64),
        gradients=elements.astype(np.int64),
        parts=((np.ones(slots, bool), _arrived(reduced), _arrived(gradients)),),
    )
    of_parameters = replace(
        sample.parameters,
        gradient=masks["gradient"],
        clipped=masks["clipped"],
        previous=masks["previous"],
        missing=~masks["present"],
        parts=((np.ones(parameters, bool), _arrived(columns)),),
    )
    spread = _spread(largest - least, columns, sample.parameters, form)
    whole = replace(sample, layers=of_layers, parameters=of_parameters, named=(*sample.named, *spread))
    return Unpacked(whole, _means(losses, counts, own, steps), int(interval))


def alone(sample: Sample) -> Sample:
    """A sample that was taken for all ranks, as this one's own."""
    return replace(sample, parameters=replace(sample.parameters, count=sample.parameters.here))


def _layers(sample: LayerSample) -> tuple[dict[str, Array], Array, Array, Array]:
    """The fields of `LayerSums`; largest value and sum of each unit; and of the layers' gradients."""
    count = len(LayerSums.FIELDS)
    reduced = np.zeros((len(sample.rows), count + 2 * UNITS))
    gradients = np.zeros((len(sample.gradients), 2))
    for here, sums, of_gradients in sample.parts:
        reduced[here] = sums.numpy()[here]
        arrived = of_gradients.numpy()
        sent = here[: len(arrived)]
        gradients[: len(arrived)][sent] = arrived[sent]
    fields = dict(zip(LayerSums.FIELDS, reduced.T, strict=False))
    return fields, reduced[:, count : count + UNITS], reduced[:, count + UNITS :], gradients


def _parameters(sample: ParameterSample) -> tuple[Array, Array]:
    """The fields of `ParameterSums`, [fields, parameters], and the sum of each row, [rows, parameters]."""
    count = len(ParameterSums.FIELDS)
    reduced = np.zeros((count + MOST, len(sample.count)))
    for here, sums in sample.parts:
        reduced[:, here] = sums.numpy()[:, here]
    return reduced[:count], reduced[count:]


def _told(sample: ParameterSample, form: Form) -> Mask:
    """Which of the fields of each parameter this rank tells of, [fields, parameters]."""
    told = np.repeat(form.speaks[None], len(ParameterSums.FIELDS), 0)
    of_gradients = {
        "gradient": sample.gradient,
        "clipped": sample.clipped,
        "previous": sample.previous,
        "product": sample.clipped & sample.previous,
        "gain": sample.clipped,
    }
    for field, known in of_gradients.items():
        told[ParameterSums.FIELDS.index(field)] &= known
    return told


def _groups(steps: Sequence[int]) -> list[list[int]]:
    """At most `LOSSES` groups of neighbouring steps: each by itself where they are few."""
    few = len(steps) <= LOSSES
    return [[step] for step in steps] if few else [part.tolist() for part in np.array_split(steps, LOSSES)]


def _binned(losses: Mapping[int, float], steps: Sequence[int]) -> tuple[Array, Array]:
    """Mean loss of each group of steps, and whether there is one; [LOSSES] each."""
    means, seen = np.zeros(LOSSES), np.zeros(LOSSES)
    for place, group in enumerate(_groups(steps)):
        known = [losses[step] for step in group if step in losses]
        if known:
            means[place], seen[place] = np.mean(known), 1.0
    return means, seen


def _means(sums: Array, counts: Array, own: Mapping[int, float], steps: Sequence[int]) -> dict[int, float]:
    """The mean loss over the ranks of each step: this rank's, moved by what the mean of its group differs from its."""
    mine, _ = _binned(own, steps)
    found: dict[int, float] = {}
    for place, group in enumerate(_groups(steps)):
        if counts[place]:
            mean = float(sums[place] / counts[place])
            several = {step: own[step] - float(mine[place]) + mean for step in group if step in own}
            found |= several if len(group) > 1 else {group[0]: mean}
    return found


def _spread(between: Array, columns: Array, sample: ParameterSample, form: Form) -> tuple[Named, ...]:
    """How far the parameters of which every rank has its own lie apart, as a share of their norm.

    Args:
        between: The largest sum of all elements less the least, for each of them.
        columns: The fields of `ParameterSums`.
        sample: This rank's own.
        form: What is known of the ranks.
    """
    places = list(form.whole)
    if not places:
        return ()
    count, norm = sample.count[places], np.sqrt(columns[ParameterSums.FIELDS.index("weight"), places])
    with np.errstate(divide="ignore", invalid="ignore"):
        rms = norm / np.sqrt(count)
        spread = np.where(between == 0, 0.0, between / (rms * np.sqrt(form.sizes[places])))
    numbers = Transfer(torch.from_numpy(spread[:, None]))
    return (Named(("replica_spread",), tuple(form.names[place] for place in places), numbers),)


def _flat(parts: Sequence[object]) -> Array:
    flat: Array = np.concatenate([np.asarray(part, float).ravel() for part in parts])
    return flat


def _arrived(values: Array) -> Transfer:
    return Transfer(torch.from_numpy(values))


class _Cutter:
    """Takes arrays off the front of a flat one."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def take(self, *shape: int) -> Array:
        size = int(np.prod(shape))
        front, self._values = self._values[:size], self._values[size:]
        cut: Array = front.reshape(shape).copy()
        return cut
