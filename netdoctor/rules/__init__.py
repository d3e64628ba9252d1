"""The catalogue: every rule; causes stand above the symptoms that they explain."""

from netdoctor.rules.base import Rule
from netdoctor.rules.covariate_shift import covariate_shift
from netdoctor.rules.dead_units import dead_units
from netdoctor.rules.exploding_gradient import exploding_gradient
from netdoctor.rules.learning_rate_too_large import learning_rate_too_large
from netdoctor.rules.learning_rate_too_small import learning_rate_too_small
from netdoctor.rules.loss_plateau import loss_plateau
from netdoctor.rules.mixed_samples import mixed_samples
from netdoctor.rules.no_gradient import no_gradient
from netdoctor.rules.non_finite import non_finite
from netdoctor.rules.not_learning import not_learning
from netdoctor.rules.overfitting import overfitting
from netdoctor.rules.poor_initialization import poor_initialization
from netdoctor.rules.saturated_units import saturated_units
from netdoctor.rules.symmetric_initialization import symmetric_initialization
from netdoctor.rules.unnormalized_input import unnormalized_input
from netdoctor.rules.vanishing_gradient import vanishing_gradient
from netdoctor.rules.weights_not_updated import weights_not_updated

ALL: tuple[Rule, ...] = (
    unnormalized_input,
    mixed_samples,
    symmetric_initialization,
    poor_initialization,
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
)
