"""Sums to numbers: every statistic with its name, unit, site and formula.

What was sampled is reduced to sums on the device (`probes.reductions`); the formulas here turn the sums of all layers
of many steps into statistics at once, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Site = Literal["layer", "parameter", "group", "run"]

# Beyond this input |f(x)| is within 3 % of its bound (Karpathy, makemore part 3).
SATURATION = {"tanh": 2.09, "softsign": 32.0, "sigmoid": 3.48, "hardtanh": 1.0, "hardsigmoid": 3.0}


@dataclass(frozen=True)
class LayerSums:
    """Sums over the samples of each slot; arrays of shape [steps, slots], ``unit_high`` of [steps, slots, units].

    ``count`` elements were sampled: ``rows`` samples of each of ``units`` units; 0 where a slot was not filled.
    """

    rows: Array
    units: Array
    total: Array
    squares: Array
    unit_squares: Array
    high: Array
    beyond: Array
    unit_high: Array

    FIELDS = ("total", "squares", "unit_squares", "high", "beyond")

    @property
    def count(self) -> Array:
        return self.rows * self.units

    @property
    def inside(self) -> Mask:
        """Which elements of ``unit_high`` belong to a unit."""
        return np.arange(self.unit_high.shape[-1]) < self.units[..., None]


def _mean(s: LayerSums) -> Array:
    return s.total / s.count


def _rms(s: LayerSums) -> Array:
    return np.sqrt(s.squares / s.count)


def _std(s: LayerSums) -> Array:
    return np.sqrt(np.maximum(s.squares / s.count - _mean(s) ** 2, 0.0))


def _signal(s: LayerSums) -> Array:
    within = s.squares / s.count - s.unit_squares / (s.units * s.rows**2)
    return np.where(s.rows > 1, np.sqrt(np.maximum(within, 0.0)), np.nan)


def _silent(s: LayerSums) -> Array:
    return np.asarray(((s.unit_high <= 0) & s.inside).sum(-1) / s.units)


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
    formula: Callable[[LayerSums], Array] | None = None


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
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
QUANTILES = tuple(
    Statistic(f"{name}_quantile_{round(100 * level):02d}", unit, "layer", f"{level:.0%} quantile of the {meaning}")
    for name, unit, meaning in (
        ("activation", "x", "output"),
        ("activation_gradient", "loss/x", "loss's gradient at the output"),
    )
    for level in LEVELS
)
MEASURED = (
    Statistic(
        "sample_mixing", "", "run", "change of an answer with its batch over the spread of answers; of checkup()"
    ),
    Statistic("dead_share", "", "layer", "share of units with no output above 0 in the last 10 samples"),
    Statistic("activation_gradient_rms", "loss/x", "layer", "root mean square of the loss's gradient at the output"),
    Statistic("gradient_zero_share", "", "layer", "share of zeros in the loss's gradient at the output"),
    Statistic("evaluation_mode", "", "layer", "1 where a norm or dropout layer trains in evaluation mode"),
    Statistic("model_evaluation_mode", "", "run", "1 where the whole model trains in evaluation mode"),
    Statistic("running_mean", "x", "layer", "mean that a batch norm has gathered for evaluation, over all units"),
    Statistic("running_std", "x", "layer", "standard deviation that it has gathered, all units together"),
    Statistic("model_input_mean", "x", "run", "mean of the model's input in training"),
    Statistic("model_input_std", "x", "run", "standard deviation of the model's input in training"),
    Statistic("pass_steps", "", "run", "steps that one pass over the training data takes, once samples came again"),
    Statistic("residual_agreement", "", "run", "correlation of the errors of nearest neighbours in the batch"),
    Statistic("weight_rms", "w", "parameter", "root mean square of the parameter before the step"),
    Statistic("weight_std", "w", "parameter", "standard deviation of the parameter before the step"),
    Statistic("gradient_rms", "loss/w", "parameter", "root mean square of the gradient before clipping"),
    Statistic("clipped_gradient_rms", "loss/w", "parameter", "root mean square of the gradient that the step uses"),
    Statistic("update_ratio", "", "parameter", "norm of the step's update over the norm of the parameter"),
    Statistic("update_rms", "w", "parameter", "root mean square of the step's update"),
    Statistic("gradient_cosine", "", "parameter", "cosine between this step's gradient and the one before"),
    Statistic(
        "unchanged_share",
        "",
        "parameter",
        "share of the elements with a gradient that the step does not change, where they have half precision",
    ),
    Statistic("unit_spread", "", "parameter", "std between units over rms: 0 where all units have the same weights"),
    Statistic("gate_spread", "", "parameter", "the same within each gate, or within queries, keys and values"),
    Statistic("gradient_missing", "", "parameter", "1 where the step found no gradient"),
    Statistic(
        "replica_spread", "", "parameter", "how far the ranks' replicas of the parameter lie apart, over its norm"
    ),
    Statistic("gradient_norm", "loss/w", "run", "norm of all gradients before clipping"),
    Statistic("clipped_gradient_norm", "loss/w", "run", "norm of all gradients that the step uses"),
    Statistic("cosine", "", "run", "cosine between the whole gradient and the one of the step before"),
    Statistic(
        "step_gain", "loss", "run", "what the step takes off the loss to first order: minus gradient times update"
    ),
    Statistic("learning_rate", "", "group", "learning rate of the param group"),
    Statistic("loss", "loss", "run", "training loss of the step"),
    Statistic("val_loss", "loss", "run", "mean validation loss since the last step"),
    Statistic("val_constant_loss", "loss", "run", "loss of the best constant prediction for the validation targets"),
    Statistic("val_accuracy", "", "run", "share of the validation targets that are predicted"),
    Statistic("val_training_share", "", "run", "share of dropout and batch norms in training mode in validation"),
    Statistic("val_dropping", "", "run", "probability of a function that drops in validation in evaluation mode"),
    Statistic("val_input_mean", "x", "run", "mean of the model's input in validation"),
    Statistic("val_input_std", "x", "run", "standard deviation of the model's input in validation"),
    Statistic("constant_loss", "loss", "run", "loss of the best constant prediction for the targets seen so far"),
    Statistic("target_rms", "y", "run", "root mean square of a regression's targets"),
    Statistic("target_mean", "y", "run", "mean of a regression's targets"),
    Statistic("target_std", "y", "run", "standard deviation of a regression's targets, rms over its columns"),
    Statistic("target_evenness", "", "run", "entropy of targets 0, 1, 2 … of what is possible; 0 for others"),
    Statistic(
        "target_roughness",
        "",
        "run",
        "change of the rank by frequency from one of them to the next; 1: nothing in common",
    ),
    Statistic("uninformed_loss", "loss", "run", "loss of an output that knows nothing: equal shares, or zero"),
    Statistic(
        "penalty", "loss", "run", "part of the loss that is made of parameters alone, as the sum of their squares"
    ),
    Statistic("rootless_loss", "", "run", "1 where backward() began at a tensor that nothing was computed into"),
    Statistic("accuracy", "", "run", "share of the batch's targets that are predicted"),
    Statistic("largest_predicted_share", "", "run", "share of the class that the batch's predictions favour"),
    Statistic("batch_class_share", "", "run", "share of the class that is most frequent in the batch"),
    Statistic("batch_class", "", "run", "index of the class that is most frequent in the batch"),
    Statistic("probability_total", "", "run", "sum of the probabilities of all classes, as the loss takes them"),
    Statistic("several_labels_share", "", "run", "share of targets with several ones, where a loss weighs classes"),
    Statistic("largest_class_share", "", "run", "share of the most frequent class in the targets seen so far"),
    Statistic("smallest_class_share", "", "run", "share of the rarest class in the targets seen so far"),
    Statistic("weighed_ones_share", "", "run", "share of ones in yes-or-no targets so far, as the loss weighs them"),
    Statistic("target_low", "y", "run", "least target of the batch, of values or of yes or no"),
    Statistic("target_high", "y", "run", "largest target of the batch, of values or of yes or no"),
    Statistic("output_low", "y", "run", "least prediction of the batch, where values are compared"),
    Statistic("output_high", "y", "run", "largest prediction of the batch, where values are compared"),
    Statistic("one_hot_share", "", "run", "share of the targets that are one-hot rows, where values are compared"),
    Statistic("leftover_gradient", "loss/w", "group", "largest gradient left in the buffers at the next backward pass"),
    Statistic("loss_scale", "", "run", "the gradient scaler's scale"),
    Statistic(
        "skipped_steps", "", "run", "steps so far that the gradient scaler left out, for Inf or NaN in a gradient"
    ),
    Statistic("gradient_nonzero", "", "parameter", "elements of the gradient of a first layer's weight that are not 0"),
    Statistic("activation_batch_signal", "x", "layer", "std of the output over the batch, at one position"),
    Statistic("input_batch_signal", "x", "layer", "std of the input over the batch, at one position"),
    Statistic("effective_rank", "", "layer", "dimensions that the outputs of a batch spread over"),
    Statistic("softmax_entropy", "", "layer", "mean entropy of the softmax behind the layer, of what is possible"),
    Statistic("softmax_balance", "", "layer", "the same of its mean over the batch: 1 where all are used alike"),
    Statistic("attention_logit", "", "layer", "largest magnitude of the attention logits behind the layer, at least"),
    Statistic("time_gradient", "", "layer", "gradient of a recurrent layer's end by the first inputs over the last"),
    *QUANTILES,
    Statistic("non_finite_activation", "", "layer", "1 where the output holds NaN or Inf"),
    Statistic("non_finite_gradient", "", "parameter", "1 where the gradient holds NaN or Inf"),
    Statistic("non_finite_weight", "", "parameter", "1 where the parameter holds NaN or Inf"),
    Statistic("non_finite_loss", "", "run", "1 where the loss is NaN or Inf"),
)
STATISTICS = {statistic.name: statistic for statistic in (*ACTIVATIONS, *INPUTS, *MEASURED)}


def compute(statistics: tuple[Statistic, ...], sums: LayerSums) -> dict[str, Array]:
    """All ``statistics`` of all slots, [steps, slots]; NaN where a slot was not filled."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {s.name: np.where(sums.count > 0, s.formula(sums), np.nan) for s in statistics if s.formula is not None}


@dataclass(frozen=True)
class ParameterSums:
    """Sums over the sampled elements of each parameter; arrays of shape [steps, parameters].

    ``between_units`` is the sum of the squares of the sums over each row of samples, ``gain`` the product of the update
    and the gradient that the step uses. ``pulled`` counts the elements that this gradient is not zero for, ``unmoved``
    those of them whose update is; both are NaN where a parameter has full precision.
    """

    count: Array
    weight: Array
    update: Array
    gradient: Array
    clipped: Array
    previous: Array
    product: Array
    weight_total: Array
    between_units: Array
    gain: Array
    pulled: Array
    unmoved: Array

    FIELDS = ("weight", "update", "gradient", "clipped", "previous", "product", "weight_total", "between_units",
              "gain", "pulled", "unmoved")  # fmt: skip


def parameter_statistics(s: ParameterSums, units: Array, sizes: Array) -> dict[str, Array]:
    """Statistics of each parameter from its sums, [steps, parameters], and of the whole model, [steps, 1].

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
        stepped, twice = np.isfinite(s.clipped), np.isfinite(s.previous) & np.isfinite(s.clipped)

        def whole(values: Array, seen: Mask) -> Array:
            total = np.where(seen, values * share, 0.0).sum(-1, keepdims=True)
            return np.where(seen.any(-1, keepdims=True), total, np.nan)

        return {
            "weight_rms": weight,
            "weight_std": np.sqrt(np.maximum(s.weight / s.count - (s.weight_total / s.count) ** 2, 0.0)),
            "gradient_rms": np.sqrt(s.gradient / s.count),
            "clipped_gradient_rms": np.sqrt(s.clipped / s.count),
            "update_rms": update,
            "update_ratio": np.where(weight > 0, update / weight, np.nan),
            "gradient_cosine": s.product / np.sqrt(s.clipped * s.previous),
            "unchanged_share": s.unmoved / s.pulled,
            "unit_spread": np.where(units > 1, np.sqrt(across) / weight, np.nan),
            "gradient_norm": np.sqrt(whole(s.gradient, stepped)),
            "clipped_gradient_norm": np.sqrt(whole(s.clipped, stepped)),
            "step_gain": -whole(s.gain, stepped & np.isfinite(s.update)),
            "cosine": whole(s.product, twice) / np.sqrt(whole(s.clipped, twice) * whole(s.previous, twice)),
        }
