"""Weight scales that keep the signal's variance, from the facts of a layer alone."""

from __future__ import annotations

import math

from netdoctor.facts import Facts, Layer

# Gains that preserve the variance (He et al. 2015, section 2.2; Glorot & Bengio 2010; torch.nn.init.calculate_gain).
GAINS = {
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0),
    "gelu": math.sqrt(2.0),
    "silu": math.sqrt(2.0),
    "mish": math.sqrt(2.0),
    "hardswish": math.sqrt(2.0),
    "elu": math.sqrt(1.5),
    "selu": 1.0,
    "tanh": 5.0 / 3.0,
    "sigmoid": 4.0,  # its slope at 0 is 1/4
}
RECTIFIERS = {"relu", "leaky_relu", "gelu", "silu", "mish", "hardswish"}

# Optimizers that divide the gradient's scale out.
ADAPTIVE = ("Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adafactor", "Lion", "Rprop", "LAMB")


def gain(nonlinearity: str) -> float:
    """Factor on 1/sqrt(fan-in) by which the weights make up for what the nonlinearity takes from the signal."""
    return GAINS.get(nonlinearity, 1.0)


def ideal_std(layer: Layer) -> float:
    """Weight std that keeps the forward variance through this layer and its nonlinearity."""
    return gain(layer.nonlinearity) / math.sqrt(max(layer.fan_in, 1))


def after_sigmoid(facts: Facts, layer: str) -> bool:
    """Whether sigmoids alone feed ``layer``: its inputs then lie around 1/2."""
    before = [each for each in facts.layers if each.name in facts.layer(layer).inputs]
    return bool(before) and all("sigmoid" in (each.function or each.nonlinearity) for each in before)
