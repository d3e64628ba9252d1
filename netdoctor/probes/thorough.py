"""What only some samples are asked for, for it takes longer: distributions and ranks, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netdoctor.probes.sampling import Samples
from netdoctor.probes.transfer import Transfer, sent
from netdoctor.statistics import LEVELS, QUANTILES

STRIDE = 4  # every fourth sampled row: 1,024 elements tell the outer quantiles to 0.3 points
GROWTH = 1.25  # each thorough sample comes a quarter of the run later than the last one: 60 in a million steps


class Pacing:
    """Which samples are thorough: log-spaced steps."""

    def __init__(self) -> None:
        self._next = 1.0

    def due(self, step: int) -> bool:
        """Whether the sample of ``step`` is thorough; asked once a sample."""
        if step < self._next:
            return False
        self._next = max(step + 1, step * GROWTH)
        return True


def quantiles(samples: Samples, device: torch.device, layers: int) -> Tensor:
    """Quantiles of the sampled elements of each layer, [layers, 7]; NaN where nothing was sampled."""
    rows = np.where(samples.filled, -(-samples.rows // STRIDE), 0)[:layers]
    values = _padded(samples.values[device][:layers, ::STRIDE], rows, samples.units[:layers], torch.inf)
    ordered = values.flatten(1).sort(1).values
    count = rows * samples.units[:layers]
    places = np.clip(np.outer(count - 1, LEVELS).round().astype(np.int64), 0, None)
    chosen = ordered.gather(1, sent(places, device))
    return chosen.masked_fill(sent(count == 0, device)[:, None], torch.nan)


def effective_rank(samples: Samples, device: torch.device, layers: int) -> Tensor:
    """Participation ratio of the covariance over samples of each layer's units, [layers], in dimensions.

    (Σλ)² / Σλ² of its eigenvalues λ, from its trace and Frobenius norm (Gao et al. 2017, "A theory of multineuronal
    dimensionality"); at most the smaller of sampled rows and units, NaN where nothing was sampled.
    """
    rows = sent(np.maximum(np.where(samples.filled, samples.rows, 0)[:layers], 1), device)
    values = samples.values[device][:layers]
    mean = values.sum(1, keepdim=True) / rows[:, None, None]
    inside = torch.arange(values.shape[1], device=device) < rows[:, None]
    centred = (values - mean) * inside[:, :, None]
    scale = centred.abs().amax((1, 2)).clamp_min(1e-30)  # squares of squares leave the range of float32
    centred = centred / scale[:, None, None]
    with torch.autocast(device.type, enabled=False):  # of a loop that keeps it on for the whole step
        covariance = centred.transpose(1, 2) @ centred
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    ranks: Tensor = trace.square() / covariance.square().sum((1, 2))
    return ranks.masked_fill(sent(~samples.filled[:layers], device), torch.nan)


def batch_signal(samples: Samples, device: torch.device) -> Tensor:
    """Std over the batch of what each slot holds, at the same position and unit; rms over both, [slots].

    0 where all samples of the batch are the same, though positions within them differ; NaN of a batch of one.
    """
    rows, outer = np.where(samples.filled, samples.rows, 0), samples.outer
    values = samples.values[device]
    double = values.dtype if device.type == "mps" else torch.float64
    inner = sent(np.maximum(rows // outer, 1), device)
    positions = torch.arange(values.shape[1], device=device) % inner[:, None]
    places = positions[:, :, None].expand(values.shape)
    sums = torch.zeros(values.shape, dtype=double, device=device).scatter_add_(1, places, values.to(double))
    count = sent(rows * samples.units, device).to(double)
    batch = sent(outer, device).to(double)
    squares = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=double).square()
    within = (squares - sums.square().sum((1, 2)) / batch).clamp_min(0) / count
    return torch.where((batch > 1) & (count > 0), within.sqrt(), torch.nan)


class ThoroughSample:
    """Quantiles of activations and of their gradients, the effective rank and more, on their way to the host.

    Args:
        activations: Of the layers, and then of the inputs that are no layer's output.
        gradients: At the layers' outputs.
        layers: Number of layers.
        sources: Slot that holds the input of each layer, -1 where it was not seen.
        remembered: `memory.time_gradient` of recurrent layers, by slot.
        replicas: Between how many ranks the batch is divided whose mean loss counts.
    """

    def __init__(
        self,
        activations: Samples,
        gradients: Samples,
        layers: int,
        sources: NDArray[np.int64],
        remembered: Mapping[int, Tensor] | None = None,
        replicas: int = 1,
    ) -> None:
        self._remembered = {slot: Transfer(value) for slot, value in (remembered or {}).items()}
        self._parts: list[tuple[NDArray[np.bool_], Transfer]] = []
        self._signals: list[tuple[NDArray[np.bool_], Transfer]] = []
        for device in activations.values:
            columns = [quantiles(activations, device, layers), effective_rank(activations, device, layers)[:, None]]
            if device in gradients.values:
                columns.append(quantiles(gradients, device, layers) / replicas)
            self._parts.append((activations.on(device)[:layers], Transfer(torch.cat(columns, 1))))
            self._signals.append((activations.on(device), Transfer(batch_signal(activations, device))))
        self._layers, self._sources = layers, sources

    @property
    def ready(self) -> bool:
        """Whether the numbers have arrived on the host."""
        transfers = [transfer for _, transfer in (*self._parts, *self._signals)]
        return all(transfer.ready for transfer in (*transfers, *self._remembered.values()))

    def decode(self) -> dict[str, NDArray[np.float64]]:
        """By statistic, [layers]."""
        of_activations, of_gradients = (QUANTILES[i : i + len(LEVELS)] for i in (0, len(LEVELS)))
        names = [*(s.name for s in of_activations), "effective_rank", *(s.name for s in of_gradients)]
        found = np.full((len(names), self._layers), np.nan)
        for here, transfer in self._parts:
            columns = transfer.numpy().T
            found[: len(columns), here] = columns[:, here]
        signals = np.full(len(self._sources) if not self._signals else len(self._signals[0][0]), np.nan)
        for here, transfer in self._signals:
            signals[here] = transfer.numpy()[here]
        decoded = dict(zip(names, found, strict=True)) | {
            "activation_batch_signal": signals[: self._layers],
            "input_batch_signal": np.where(self._sources >= 0, signals[self._sources], np.nan),
        }
        if self._remembered:
            decoded["time_gradient"] = np.full(self._layers, np.nan)
            for slot, transfer in self._remembered.items():
                decoded["time_gradient"][slot] = transfer.numpy()
        return decoded


def _padded(values: Tensor, rows: NDArray[np.int64], units: NDArray[np.int64], padding: float) -> Tensor:
    """``values`` with ``padding`` beyond the rows and units of each slot."""
    device = values.device
    beyond_rows = torch.arange(values.shape[1], device=device) >= sent(rows, device)[:, None]
    beyond_units = torch.arange(values.shape[2], device=device) >= sent(units, device)[:, None]
    return values.masked_fill(beyond_rows[:, :, None] | beyond_units[:, None, :], padding)
