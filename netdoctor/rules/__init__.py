"""The catalogue: every rule; causes stand above the symptoms that they explain."""

from netdoctor.rules.attention_collapse import attention_collapse
from netdoctor.rules.base import Rule
from netdoctor.rules.bias_before_batchnorm import bias_before_batchnorm
from netdoctor.rules.class_collapse import class_collapse
from netdoctor.rules.class_imbalance import class_imbalance
from netdoctor.rules.constant_input import constant_input
from netdoctor.rules.constant_output import constant_output
from netdoctor.rules.covariate_shift import covariate_shift
from netdoctor.rules.dead_units import dead_units
from netdoctor.rules.diverging_loss import diverging_loss
from netdoctor.rules.dropout_before_batchnorm import dropout_before_batchnorm
from netdoctor.rules.excess_dropout import excess_dropout
from netdoctor.rules.expert_imbalance import expert_imbalance
from netdoctor.rules.exploding_gradient import exploding_gradient
from netdoctor.rules.gradient_underflow import gradient_underflow
from netdoctor.rules.input_not_used import input_not_used
from netdoctor.rules.learning_rate_too_large import learning_rate_too_large
from netdoctor.rules.learning_rate_too_small import learning_rate_too_small
from netdoctor.rules.logit_growth import logit_growth
from netdoctor.rules.loss_mismatch import loss_mismatch
from netdoctor.rules.loss_plateau import loss_plateau
from netdoctor.rules.loss_scale_collapse import loss_scale_collapse
from netdoctor.rules.loss_spike import loss_spike
from netdoctor.rules.missing_nonlinearity import missing_nonlinearity
from netdoctor.rules.mixed_samples import mixed_samples
from netdoctor.rules.no_gradient import no_gradient
from netdoctor.rules.noisy_gradient import noisy_gradient
from netdoctor.rules.non_finite import non_finite
from netdoctor.rules.not_learning import not_learning
from netdoctor.rules.oscillating_loss import oscillating_loss
from netdoctor.rules.over_regularized import over_regularized
from netdoctor.rules.overfitting import overfitting
from netdoctor.rules.poor_initialization import poor_initialization
from netdoctor.rules.redundant_softmax import redundant_softmax
from netdoctor.rules.replicas_diverged import replicas_diverged
from netdoctor.rules.representation_collapse import representation_collapse
from netdoctor.rules.saturated_units import saturated_units
from netdoctor.rules.silent_broadcast import silent_broadcast
from netdoctor.rules.small_batch_batchnorm import small_batch_batchnorm
from netdoctor.rules.stale_gradient import stale_gradient
from netdoctor.rules.summed_loss import summed_loss
from netdoctor.rules.symmetric_initialization import symmetric_initialization
from netdoctor.rules.train_val_mismatch import train_val_mismatch
from netdoctor.rules.underfitting import underfitting
from netdoctor.rules.unexpected_initial_loss import unexpected_initial_loss
from netdoctor.rules.unnormalized_input import unnormalized_input
from netdoctor.rules.unnormalized_target import unnormalized_target
from netdoctor.rules.vanishing_gradient import vanishing_gradient
from netdoctor.rules.weight_growth import weight_growth
from netdoctor.rules.weights_not_updated import weights_not_updated
from netdoctor.rules.wrong_mode import wrong_mode
from netdoctor.rules.wrong_output_activation import wrong_output_activation

ALL: tuple[Rule, ...] = (
    constant_input,
    unnormalized_input,
    constant_output,
    redundant_softmax,
    silent_broadcast,
    loss_mismatch,
    summed_loss,
    wrong_output_activation,
    unnormalized_target,
    class_imbalance,
    mixed_samples,
    symmetric_initialization,
    missing_nonlinearity,
    excess_dropout,
    small_batch_batchnorm,
    dropout_before_batchnorm,
    bias_before_batchnorm,
    wrong_mode,
    poor_initialization,
    gradient_underflow,
    loss_scale_collapse,
    stale_gradient,
    replicas_diverged,
    expert_imbalance,
    unexpected_initial_loss,
    input_not_used,
    no_gradient,
    weights_not_updated,
    diverging_loss,
    loss_spike,
    over_regularized,
    learning_rate_too_large,
    learning_rate_too_small,
    weight_growth,
    logit_growth,
    attention_collapse,
    exploding_gradient,
    non_finite,
    vanishing_gradient,
    saturated_units,
    dead_units,
    representation_collapse,
    covariate_shift,
    train_val_mismatch,
    overfitting,
    noisy_gradient,
    oscillating_loss,
    underfitting,
    loss_plateau,
    not_learning,
    class_collapse,
)
