"""Remedies that several rules share, with code for the very model, and what carries them out."""

from netdoctor.remedies.clipping import clip_gradients
from netdoctor.remedies.criterion import smooth_labels, weigh_classes
from netdoctor.remedies.data_scaling import rescale_by_data
from netdoctor.remedies.dropout import insert_dropout, more_dropout, set_dropout
from netdoctor.remedies.fresh_start import start_again
from netdoctor.remedies.initialisation import initialise, kaiming
from netdoctor.remedies.membership import add_missing_parameters, freeze, freeze_layers, take_over
from netdoctor.remedies.nonlinearities import insert_nonlinearity, rectify, replace_by_leaky_relu, replace_by_relu
from netdoctor.remedies.normalisation import normalise
from netdoctor.remedies.optimizer_options import (
    find_learning_rate,
    scale_learning_rate,
    set_learning_rate,
    set_momentum,
    set_weight_decay,
    slower,
)
from netdoctor.remedies.orthogonal import orthogonal
from netdoctor.remedies.outputs import remove_activation, remove_softmax, replace_output
from netdoctor.remedies.procedure import Procedure, in_turn
from netdoctor.remedies.residual_scaling import initialise_transformer
from netdoctor.remedies.scales import ADAPTIVE, GAINS, after_sigmoid, gain, ideal_std
from netdoctor.remedies.schedules import reduce_on_plateau, warm_up, warm_up_and_decay
from netdoctor.remedies.standardisation import standardise, standardise_features
from netdoctor.remedies.wording import names_code

__all__ = [
    "ADAPTIVE",
    "GAINS",
    "Procedure",
    "add_missing_parameters",
    "after_sigmoid",
    "clip_gradients",
    "find_learning_rate",
    "freeze",
    "freeze_layers",
    "gain",
    "ideal_std",
    "in_turn",
    "initialise",
    "initialise_transformer",
    "insert_dropout",
    "insert_nonlinearity",
    "kaiming",
    "more_dropout",
    "names_code",
    "normalise",
    "orthogonal",
    "rectify",
    "reduce_on_plateau",
    "remove_activation",
    "remove_softmax",
    "replace_by_leaky_relu",
    "replace_by_relu",
    "replace_output",
    "rescale_by_data",
    "scale_learning_rate",
    "set_dropout",
    "set_learning_rate",
    "set_momentum",
    "set_weight_decay",
    "slower",
    "smooth_labels",
    "standardise",
    "standardise_features",
    "start_again",
    "take_over",
    "warm_up",
    "warm_up_and_decay",
    "weigh_classes",
]
