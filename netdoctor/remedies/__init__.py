"""Remedies that several rules share, with code for the very model, and what carries them out."""

from netdoctor.remedies.attention_scores import divide_scores
from netdoctor.remedies.attention_weights import xavier_attention
from netdoctor.remedies.batch_norms import gather_faster, remove_biases, replace_batch_norms
from netdoctor.remedies.clipping import clip_gradients
from netdoctor.remedies.criterion import average_loss, smooth_labels, weigh_classes
from netdoctor.remedies.data_scaling import rescale_by_data
from netdoctor.remedies.dropout import insert_dropout, more_dropout, set_dropout
from netdoctor.remedies.early_stopping import stop_at
from netdoctor.remedies.experts import balance_experts
from netdoctor.remedies.fresh_start import from_the_start, start_again
from netdoctor.remedies.initialisation import initialise, kaiming
from netdoctor.remedies.membership import (
    add_missing_parameters,
    freeze_layers,
    register_lists,
    set_rate_of,
    take_over,
    unfreeze,
)
from netdoctor.remedies.nonlinearities import insert_nonlinearity, rectify, replace_by_leaky_relu, replace_by_relu
from netdoctor.remedies.normalisation import normalise
from netdoctor.remedies.optimizer_options import (
    find_learning_rate,
    scale_learning_rate,
    set_learning_rate,
    set_momentum,
    set_weight_decay,
    slow_groups,
    slower,
)
from netdoctor.remedies.orthogonal import orthogonal
from netdoctor.remedies.outputs import leave_out, remove_activation, remove_softmax, replace_output, use_sigmoid
from netdoctor.remedies.precision import autocast_to_bfloat16, weights_in_float32
from netdoctor.remedies.procedure import Procedure, both, in_turn
from netdoctor.remedies.recurrence import gated, orthogonal_recurrence, remember
from netdoctor.remedies.residual_scaling import initialise_transformer
from netdoctor.remedies.scales import ADAPTIVE, GAINS, after_sigmoid, gain, ideal_std
from netdoctor.remedies.schedules import (
    decay_instead,
    reduce_on_plateau,
    step_once_an_epoch,
    warm_up,
    warm_up_and_decay,
)
from netdoctor.remedies.standardisation import (
    standardise,
    standardise_features,
    standardise_robustly,
    standardise_targets,
)
from netdoctor.remedies.weight_scales import bound_weights, quiet_head, scale_weights
from netdoctor.remedies.wording import names_code

__all__ = [
    "ADAPTIVE",
    "GAINS",
    "Procedure",
    "add_missing_parameters",
    "after_sigmoid",
    "autocast_to_bfloat16",
    "average_loss",
    "balance_experts",
    "both",
    "bound_weights",
    "clip_gradients",
    "decay_instead",
    "divide_scores",
    "find_learning_rate",
    "freeze_layers",
    "from_the_start",
    "gain",
    "gated",
    "gather_faster",
    "ideal_std",
    "in_turn",
    "initialise",
    "initialise_transformer",
    "insert_dropout",
    "insert_nonlinearity",
    "kaiming",
    "leave_out",
    "more_dropout",
    "names_code",
    "normalise",
    "orthogonal",
    "orthogonal_recurrence",
    "quiet_head",
    "rectify",
    "reduce_on_plateau",
    "register_lists",
    "remember",
    "remove_activation",
    "remove_biases",
    "remove_softmax",
    "replace_batch_norms",
    "replace_by_leaky_relu",
    "replace_by_relu",
    "replace_output",
    "rescale_by_data",
    "scale_learning_rate",
    "scale_weights",
    "set_dropout",
    "set_learning_rate",
    "set_momentum",
    "set_rate_of",
    "set_weight_decay",
    "slow_groups",
    "slower",
    "smooth_labels",
    "standardise",
    "standardise_features",
    "standardise_robustly",
    "standardise_targets",
    "start_again",
    "step_once_an_epoch",
    "stop_at",
    "take_over",
    "unfreeze",
    "use_sigmoid",
    "warm_up",
    "warm_up_and_decay",
    "weigh_classes",
    "weights_in_float32",
    "xavier_attention",
]
