"""Samples to numbers: every statistic with its name, unit, site and formula.

One pass on the device reduces all slots of a sample buffer at once to sums; the formulas turn the sums of all layers
into statistics on the host. Padding is zero and every sum ignores zeros, so slots may be filled to different extents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Site = Literal["layer", "parameter", "group", "run"]

# Beyond this input |f(x)| is within 3 % of its bound (Karpathy, makemore part 3).
SATURATION = {"tanh": 2.09, "softsign": 32.0, "sigmoid": 3.48, "hardtanh": 1.0, "hardsigmoid": 3.0}


@dataclass(frozen=True)
class Sums:
    """Sums over the samples of each slot; arrays of shape [slots], ``unit_high`` of [slots, units].

    ``count`` elements were sampled: ``rows`` samples of each of ``units`` units; 0 where a slot was not filled.
    """

    rows: Array
    units: Array
    total: Array
    squares: Array
    unit_squares: Array
    high: Array
    unit_high: Array
    beyond: Array

    @property
    def count(self) -> Array:
        return self.rows * self.units


def reduce_samples(values: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Sums of each slot on the device: [slots, 5 + units] float64 (float32 where the device has no double).

    Args:
        values: [slots, rows, units], zero-padded.
        bounds: [slots] saturation bound of each slot's elements, None where no slot needs one.
    """
    double = torch.float32 if values.device.type == "mps" else torch.float64
    unit_sums = values.sum(1, dtype=double)  # float32 would lose the std of data on an offset
    unit_high = values.amax(1)
    high = torch.maximum(unit_high.amax(1), -values.amin(1).amin(1))
    norm = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=double)
    beyond = torch.zeros_like(high) if bounds is None else (values.abs() > bounds[:, None, None]).sum((1, 2))
    columns = torch.stack(
        (unit_sums.sum(1), norm.square(), unit_sums.square().sum(1), high.to(double), beyond.to(double)), 1
    )
    return torch.cat((columns, unit_high.to(double)), 1)


def unpack(reduced: Array, rows: NDArray[np.int64], units: NDArray[np.int64]) -> Sums:
    """The host's view of what `reduce_samples` returned."""
    total, squares, unit_squares, high, beyond = reduced[:, :5].T
    return Sums(rows.astype(float), units.astype(float), total, squares, unit_squares, high, reduced[:, 5:], beyond)


def _mean(s: Sums) -> Array:
    return s.total / s.count


def _rms(s: Sums) -> Array:
    return np.sqrt(s.squares / s.count)


def _std(s: Sums) -> Array:
    return np.sqrt(np.maximum(s.squares / s.count - _mean(s) ** 2, 0.0))


def _signal(s: Sums) -> Array:
    within = s.squares / s.count - s.unit_squares / (s.units * s.rows**2)
    return np.where(s.rows > 1, np.sqrt(np.maximum(within, 0.0)), np.nan)


def _silent(s: Sums) -> Array:
    inside = np.arange(s.unit_high.shape[1])[None, :] < s.units[:, None]
    return np.asarray(((s.unit_high <= 0) & inside).sum(1) / s.units)


@dataclass(frozen=True)
class Statistic:
    """One row of the table of statistics.

    Attributes:
        name: Key in the history.
        unit: "" for a ratio or a share, "x" for the tensor's own unit.
        site: What its columns are: layers, parameters, param groups or the run.
        meaning: One line for reports.
        formula: From sums to one value a slot; None where the monitor measures it otherwise.
    """

    name: str
    unit: str
    site: Site
    meaning: str
    formula: Callable[[Sums], Array] | None = None


ACTIVATIONS = (
    Statistic("activation_mean", "x", "layer", "mean of the output", _mean),
    Statistic("activation_std", "x", "layer", "standard deviation of the output, all units together", _std),
    Statistic("activation_rms", "x", "layer", "root mean square of the output", _rms),
    Statistic("activation_max", "x", "layer", "largest magnitude in the output", lambda s: s.high),
    Statistic("activation_signal", "x", "layer", "std of a unit's output over samples, rms over units", _signal),
    Statistic("silent_share", "", "layer", "share of units with no output above 0 in the batch", _silent),
    Statistic("saturated_share", "", "layer", "share of inputs of a bounded nonlinearity beyond 97 % of its bound",
              lambda s: s.beyond / s.count),
)  # fmt: skip
INPUTS = (
    Statistic("input_mean", "x", "layer", "mean of the input", _mean),
    Statistic("input_std", "x", "layer", "standard deviation of the input, all units together", _std),
    Statistic("input_rms", "x", "layer", "root mean square of the input", _rms),
    Statistic("input_max", "x", "layer", "largest magnitude in the input", lambda s: s.high),
    Statistic("input_signal", "x", "layer", "std of an input unit over samples, rms over units", _signal),
)
MEASURED = (
    Statistic("dead_share", "", "layer", "share of units with no output above 0 in the last 10 samples"),
    Statistic("activation_gradient_rms", "loss/x", "layer", "root mean square of the loss's gradient at the output"),
    Statistic("weight_rms", "w", "parameter", "root mean square of the parameter before the step"),
    Statistic("weight_std", "w", "parameter", "standard deviation of the parameter before the step"),
    Statistic("gradient_rms", "loss/w", "parameter", "root mean square of the gradient before clipping"),
    Statistic("clipped_gradient_rms", "loss/w", "parameter", "root mean square of the gradient that the step uses"),
    Statistic("update_ratio", "", "parameter", "norm of the step's update over the norm of the parameter"),
    Statistic("update_rms", "w", "parameter", "root mean square of the step's update"),
    Statistic("gradient_cosine", "", "parameter", "cosine between this step's gradient and the one before"),
    Statistic("unit_spread", "", "parameter", "std between units over rms: 0 where all units have the same weights"),
    Statistic("gradient_missing", "", "parameter", "1 where the step found no gradient"),
    Statistic("gradient_norm", "loss/w", "run", "norm of all gradients before clipping"),
    Statistic("clipped_gradient_norm", "loss/w", "run", "norm of all gradients that the step uses"),
    Statistic("cosine", "", "run", "cosine between the whole gradient and the one of the step before"),
    Statistic("learning_rate", "", "group", "learning rate of the param group"),
    Statistic("loss", "loss", "run", "training loss of the step"),
    Statistic("val_loss", "loss", "run", "mean validation loss since the last step"),
    Statistic("constant_loss", "loss", "run", "loss of the best constant prediction for the targets seen so far"),
    Statistic("target_rms", "y", "run", "root mean square of a regression's targets"),
    Statistic("non_finite_activation", "", "layer", "1 where the output holds NaN or Inf"),
    Statistic("non_finite_gradient", "", "parameter", "1 where the gradient holds NaN or Inf"),
    Statistic("non_finite_weight", "", "parameter", "1 where the parameter holds NaN or Inf"),
    Statistic("non_finite_loss", "", "run", "1 where the loss is NaN or Inf"),
)
STATISTICS = {statistic.name: statistic for statistic in (*ACTIVATIONS, *INPUTS, *MEASURED)}


def compute(statistics: tuple[Statistic, ...], sums: Sums) -> dict[str, Array]:
    """All ``statistics`` of all slots; NaN where a slot was not filled."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {s.name: np.where(sums.count > 0, s.formula(sums), np.nan) for s in statistics if s.formula is not None}


@dataclass(frozen=True)
class ParameterSums:
    """Sums over the sampled elements of each parameter; arrays of shape [parameters]."""

    count: Array
    weight: Array
    weight_total: Array
    between_units: Array
    gradient: Array
    clipped: Array
    update: Array
    previous: Array
    product: Array

    FIELDS = ("weight", "weight_total", "between_units", "gradient", "clipped", "update", "previous", "product")


def reduce_parameters(before: Tensor, after: Tensor, gradient: Tensor, clipped: Tensor, previous: Tensor) -> Tensor:
    """Sums of each parameter on the device, [parameters, 8] in the order of `ParameterSums.FIELDS`.

    All arguments are [parameters, rows, units], zero-padded: the parameter before and after the optimizer's step, its
    gradient before and after clipping, and the step before's gradient.
    """
    double = torch.float32 if before.device.type == "mps" else torch.float64

    def squares(tensor: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1, dtype=double)
        return norms.square()

    rows = before.sum(2, dtype=double)
    return torch.stack(
        (
            squares(before),
            rows.sum(1),
            rows.square().sum(1),
            squares(gradient),
            squares(clipped),
            squares(after - before),
            squares(previous),
            (clipped * previous).sum((1, 2), dtype=double),
        ),
        1,
    )


def parameter_statistics(s: ParameterSums, units: Array, sizes: Array) -> dict[str, Array]:
    """Statistics of each parameter from its sums, and of the whole model.

    Args:
        s: The sums; NaN where a parameter has no gradient.
        units: Sampled units of each parameter.
        sizes: Elements of each parameter: samples are weighted by them in the norms of the whole model.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weight = np.sqrt(s.weight / s.count)
        update = np.sqrt(s.update / s.count)
        across = np.maximum(s.weight / s.count - s.between_units / (s.count * units), 0.0)
        share = sizes / s.count
        twice = np.isfinite(s.previous) & np.isfinite(s.clipped)

        def whole(values: Array, seen: Mask) -> Array:
            return np.asarray(np.sum((values * share)[seen])) if seen.any() else np.asarray(np.nan)

        return {
            "weight_rms": weight,
            "weight_std": np.sqrt(np.maximum(s.weight / s.count - (s.weight_total / s.count) ** 2, 0.0)),
            "gradient_rms": np.sqrt(s.gradient / s.count),
            "clipped_gradient_rms": np.sqrt(s.clipped / s.count),
            "update_rms": update,
            "update_ratio": np.where(weight > 0, update / weight, np.nan),
            "gradient_cosine": s.product / np.sqrt(s.clipped * s.previous),
            "unit_spread": np.where(units > 1, np.sqrt(across) / weight, np.nan),
            "gradient_norm": np.sqrt(whole(s.gradient, np.isfinite(s.clipped))),
            "clipped_gradient_norm": np.sqrt(whole(s.clipped, np.isfinite(s.clipped))),
            "cosine": whole(s.product, twice) / np.sqrt(whole(s.clipped, twice) * whole(s.previous, twice)),
        }
