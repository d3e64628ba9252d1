"""The catalogue: every rule; causes stand above the symptoms that they explain."""

from netdoctor.rules.base import Rule
from netdoctor.rules.class_collapse import class_collapse
from netdoctor.rules.class_imbalance import class_imbalance
from netdoctor.rules.constant_input import constant_input
from netdoctor.rules.constant_output import constant_output
from netdoctor.rules.covariate_shift import covariate_shift
from netdoctor.rules.dead_units import dead_units
from netdoctor.rules.exploding_gradient import exploding_gradient
from netdoctor.rules.input_not_used import input_not_used
from netdoctor.rules.learning_rate_too_large import learning_rate_too_large
from netdoctor.rules.learning_rate_too_small import learning_rate_too_small
from netdoctor.rules.loss_mismatch import loss_mismatch
from netdoctor.rules.loss_plateau import loss_plateau
from netdoctor.rules.no_gradient import no_gradient
from netdoctor.rules.non_finite import non_finite
from netdoctor.rules.not_learning import not_learning
from netdoctor.rules.overfitting import overfitting
from netdoctor.rules.poor_initialization import poor_initialization
from netdoctor.rules.redundant_softmax import redundant_softmax
from netdoctor.rules.saturated_units import saturated_units
from netdoctor.rules.silent_broadcast import silent_broadcast
from netdoctor.rules.symmetric_initialization import symmetric_initialization
from netdoctor.rules.unexpected_initial_loss import unexpected_initial_loss
from netdoctor.rules.unnormalized_input import unnormalized_input
from netdoctor.rules.unnormalized_target import unnormalized_target
from netdoctor.rules.vanishing_gradient import vanishing_gradient
from netdoctor.rules.weights_not_updated import weights_not_updated
from netdoctor.rules.wrong_output_activation import wrong_output_activation

ALL: tuple[Rule, ...] = (
    constant_input,
    unnormalized_input,
    constant_output,
    redundant_softmax,
    silent_broadcast,
    loss_mismatch,
    wrong_output_activation,
    unnormalized_target,
    class_imbalance,
    symmetric_initialization,
    poor_initialization,
    unexpected_initial_loss,
    input_not_used,
    no_gradient,
    weights_not_updated,
    learning_rate_too_large,
    learning_rate_too_small,
    exploding_gradient,
    non_finite,
    vanishing_gradient,
    saturated_units,
    dead_units,
    covariate_shift,
    overfitting,
    loss_plateau,
    not_learning,
    class_collapse,
)
