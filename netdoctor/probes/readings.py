"""Decodes what arrived from the device: the sums of several sampled steps at once to their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from netdoctor.facts import Parameter
from netdoctor.history import History
from netdoctor.probes.named import Named
from netdoctor.probes.parameters import MOST
from netdoctor.probes.sampled import LayerSample, ParameterSample
from netdoctor.probes.sampling import UNITS
from netdoctor.probes.softmaxes import FIELDS, Softmaxes
from netdoctor.probes.thorough import ThoroughSample
from netdoctor.probes.transfer import Transfer
from netdoctor.statistics import (
    ACTIVATIONS,
    INPUTS,
    STATISTICS,
    Array,
    LayerSums,
    Mask,
    ParameterSums,
    compute,
    parameter_statistics,
)

DEAD_WINDOW = 10  # samples without output before a unit counts as dead: 640 inputs and more


class LayerReadings:
    """Statistics of the layers; remembers when each unit was last active.

    Args:
        layers: Number of layers: their slots come first in each sample.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._samples = np.zeros(layers, np.int64)  # of each layer so far
        self._last_active = np.zeros((layers, UNITS), np.int64)  # sample in which each unit had output above 0

    def decode(self, samples: Sequence[LayerSample]) -> dict[str, Array]:
        """Statistics of every layer, [steps, layers]; NaN where a layer was not called."""
        count = len(LayerSums.FIELDS)
        reduced = np.zeros((len(samples), len(samples[0].rows), count + UNITS))
        of_gradients = np.full((len(samples), self.layers, 2), np.nan)
        for row, sample in enumerate(samples):
            for here, sums, gradients in sample.parts:
                reduced[row, here] = sums.numpy()[here, : count + UNITS]
                arrived = gradients.numpy()
                sent = here[: len(arrived)]
                of_gradients[row, : len(arrived)][sent] = arrived[sent]
        rows = np.stack([sample.rows for sample in samples]).astype(float)
        units = np.stack([sample.units for sample in samples]).astype(float)
        columns = dict(zip(LayerSums.FIELDS, np.moveaxis(reduced[..., :count], -1, 0), strict=True))
        sums_of_all = LayerSums(rows, units, **columns, unit_high=reduced[..., count:])
        of_all = compute(ACTIVATIONS, sums_of_all)
        own = slice(None), slice(self.layers)
        measured = {name: values[own] for name, values in of_all.items()}
        filled = rows[own] > 0
        inside = sums_of_all.inside[own]
        measured["dead_share"] = self._dead_share(sums_of_all.unit_high[own], inside, filled)
        bad = ~np.isfinite(sums_of_all.squares[own])
        measured["non_finite_activation"] = np.where(filled, bad, np.nan)
        sources = np.stack([sample.sources for sample in samples])
        for statistic in INPUTS:  # an input is some layer's output, or was sampled like one
            same = np.take_along_axis(of_all[statistic.name.replace("input", "activation")], sources, 1)
            measured[statistic.name] = np.where(sources >= 0, same, np.nan)
        measured["evaluation_mode"] = np.stack([sample.evaluating for sample in samples])
        elements = np.stack([sample.gradients for sample in samples])
        with np.errstate(divide="ignore", invalid="ignore"):
            squares, nonzero = np.where(elements > 0, np.moveaxis(of_gradients, -1, 0) / elements, np.nan)
        measured["activation_gradient_rms"] = np.sqrt(squares)
        measured["gradient_zero_share"] = 1 - nonzero
        return measured

    def _dead_share(self, unit_high: Array, inside: Mask, filled: Mask) -> Array:
        """Share of units without output above 0 in the last `DEAD_WINDOW` samples; NaN before there were as many."""
        samples = self._samples + filled.cumsum(0)
        active = ~(unit_high <= 0) & filled[..., None]  # NaN is not silence
        last = np.where(active, samples[..., None], 0)
        last[0] = np.maximum(last[0], self._last_active)
        last = np.maximum.accumulate(last, 0)
        self._samples, self._last_active = samples[-1], last[-1]
        dead = ((samples[..., None] - last >= DEAD_WINDOW) & inside).sum(-1)
        known = (samples >= DEAD_WINDOW) & filled
        return np.where(known, dead / np.maximum(inside.sum(-1), 1), np.nan)


class ParameterReadings:
    """Statistics of the parameters.

    Args:
        parameters: Facts of each parameter, in the order of the slots.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._sizes = np.array([float(facts.size) for facts in parameters])
        self._units = np.array([float(min(facts.shape[0], MOST)) if facts.shape else 1.0 for facts in parameters])

    def decode(self, samples: Sequence[ParameterSample]) -> dict[str, Array]:
        """Statistics of every parameter, [steps, parameters], NaN where it was not seen; of the model, [steps, 1]."""
        sums = np.full((len(samples), len(ParameterSums.FIELDS), len(self._sizes)), np.nan)
        for row, sample in enumerate(samples):
            for here, transfer in sample.parts:
                sums[row][:, here] = transfer.numpy()[: len(sums[row]), here]
        columns = dict(zip(ParameterSums.FIELDS, sums.swapaxes(0, 1), strict=True))

        def stacked(name: str) -> NDArray[np.bool_]:
            return np.stack([getattr(sample, name) for sample in samples])

        seen_gradient, held, trainable = stacked("gradient"), stacked("held"), stacked("trainable")
        scales = np.array([sample.unscale() for sample in samples])
        columns["gradient"] = np.where(seen_gradient, columns["gradient"] / scales[:, None] ** 2, np.nan)
        still = np.where([sample.fused for sample in samples], scales, 1.0)[:, None]
        columns["clipped"] = np.where(stacked("clipped"), columns["clipped"] / still**2, np.nan)
        columns["previous"] = np.where(stacked("previous"), columns["previous"] / still**2, np.nan)
        columns["product"] /= still**2
        columns["gain"] /= still
        columns["update"] = np.where(held, columns["update"], np.nan)
        count = np.stack([sample.count for sample in samples]).astype(float)
        measured = parameter_statistics(ParameterSums(count, **columns), self._units, self._sizes)
        measured["gradient_missing"] = np.where(held & trainable, stacked("missing"), np.nan)
        measured["non_finite_weight"] = np.where(count > 0, ~np.isfinite(columns["weight"]), np.nan)
        measured["non_finite_gradient"] = np.where(seen_gradient, ~np.isfinite(columns["gradient"]), np.nan)
        return measured


@dataclass(frozen=True)
class Sample:
    """All that one sampled step tells."""

    step: int
    layers: LayerSample
    parameters: ParameterSample
    learning_rates: Sequence[float | Transfer]
    thorough: ThoroughSample | None = None
    softmaxes: Softmaxes | None = None
    named: tuple[Named, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the numbers have arrived on the host."""
        softmaxes = None if self.softmaxes is None else self.softmaxes[1]
        rates = [rate for rate in self.learning_rates if isinstance(rate, Transfer)]
        parts = (self.layers, self.parameters, self.thorough, softmaxes, *self.named, *rates)
        return all(part is None or part.ready for part in parts)


class Readings:
    """Sampled steps that wait to be decoded: many at once cost little more than one.

    Args:
        layers: Names of the layers in the order of their slots.
        parameters: Facts of the parameters in the order of their slots.
    """

    def __init__(self, layers: Sequence[str], parameters: Sequence[Parameter]) -> None:
        self._layers = LayerReadings(len(layers))
        self._parameters = ParameterReadings(parameters)
        self._names = tuple(layers)
        self._columns, self._order = self._names, np.arange(len(layers))
        self._parameter_names = tuple(facts.name for facts in parameters)
        self._waiting: list[Sample] = []

    def arrange(self, layers: Sequence[str]) -> None:
        """Record the layers in this order from now on: that of execution, once it is known."""
        self._columns = tuple(layers)
        self._order = np.array([self._names.index(name) for name in layers], dtype=int)

    def replace_parameters(self, parameters: Sequence[Parameter]) -> None:
        """The samples to come are of these parameters; none may wait when this is called."""
        self._parameters = ParameterReadings(parameters)
        self._parameter_names = tuple(facts.name for facts in parameters)

    def add(self, sample: Sample) -> None:
        """Take in one sampled step."""
        self._waiting.append(sample)

    @property
    def waiting(self) -> int:
        """Samples not yet decoded."""
        return len(self._waiting)

    def flush(self, history: History, wait: bool = True) -> None:
        """Decode the samples into the history: all of them, or without waiting only those that have arrived."""
        ready = list(self._waiting if wait else takewhile(lambda sample: sample.ready, self._waiting))
        if not ready:
            return
        self._waiting = self._waiting[len(ready) :]
        steps = [sample.step for sample in ready]
        for name, values in self._layers.decode([sample.layers for sample in ready]).items():
            history.record_rows(steps, name, values[:, self._order], self._columns)
        for name, values in self._parameters.decode([sample.parameters for sample in ready]).items():
            if name == "unchanged_share" and np.isnan(values).all():
                continue
            of_run = STATISTICS[name].site == "run"
            history.record_rows(steps, name, values, ("",) if of_run else self._parameter_names)
        for sample in ready:
            groups = tuple(str(index) for index in range(len(sample.learning_rates)))
            rates = [float(rate.numpy()) if isinstance(rate, Transfer) else rate for rate in sample.learning_rates]
            history.record(sample.step, "learning_rate", rates, groups)
            if sample.thorough is not None:
                for name, values in sample.thorough.decode().items():
                    history.record(sample.step, name, values[self._order], self._columns)
            if sample.softmaxes is not None:
                columns, numbers = sample.softmaxes
                for name, values in zip(FIELDS, numbers.numpy().T, strict=True):
                    history.record(sample.step, name, values, columns)
            for part in sample.named:
                part.record(history, sample.step)
