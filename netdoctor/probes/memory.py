"""How far back recurrent layers look: the gradient at the first inputs of a sequence, made anew for a few sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netdoctor.probes.sampling import plain

SEQUENCES = 2  # of the batch: the gradients of two differ by less than what matters, orders of magnitude
LONGEST = 128  # latest inputs of a sequence: what has vanished over these has vanished over all
PART = 10  # the first and the last tenth of the inputs are compared
FUNCTIONS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


def keep(module: nn.Module, given: object) -> Tensor | None:
    """What `time_gradient` takes of a recurrent layer's input, [length, sequences, inputs]; None for other layers."""
    if not isinstance(module, nn.RNNBase) or module.mode not in FUNCTIONS or type(given) is not Tensor:
        return None
    given = plain(given)
    if given is None or given.ndim != 3:
        return None
    series = given.detach().transpose(0, 1) if module.batch_first else given.detach()
    return series[-LONGEST:, :SEQUENCES].clone() if len(series) >= PART else None


def time_gradient(module: nn.RNNBase, series: Tensor) -> Tensor:
    """Gradient of the last state by the first tenth of the inputs over that by the last tenth, a scalar.

    Both are root mean squares of the product with one random-signed direction. Without the layer's own dropout, from
    a state of zeros, whatever the program does.
    """
    whole = [weight for weight in module._flat_weights if weight is not None]
    weights = [mine for weight in whole if (mine := plain(weight.detach())) is not None]
    if [mine.shape for mine in weights] != [weight.shape for weight in whole] or not weights:
        return series.new_full((), torch.nan)  # parametrised, or a shard
    given = series.to(weights[0]).requires_grad_()
    ways = 1 + module.bidirectional
    state = given.new_zeros(module.num_layers * ways, given.shape[1], module.proj_size or module.hidden_size)
    start: Tensor | tuple[Tensor, Tensor] = state
    if module.mode == "LSTM":
        start = (state, given.new_zeros(module.num_layers * ways, given.shape[1], module.hidden_size))
    function = getattr(torch._VF, FUNCTIONS[module.mode])
    kind = series.device.type
    with torch.enable_grad(), torch.autocast(kind, enabled=False):
        states = function(
            given, start, weights, module.bias, module.num_layers, 0.0, True, module.bidirectional, False
        )[0]
        last = states[-1, :, : state.shape[2]]  # of a bidirectional layer the way that has read all
        signs = torch.ones_like(last)
        signs[:, ::2] = -1.0
        (gradient,) = torch.autograd.grad((last * signs).sum(), given)
    part = max(len(series) // PART, 1)
    squares = gradient.to(torch.float32 if kind == "mps" else torch.float64).square().mean((1, 2))
    ratio: Tensor = (squares[:part].mean() / squares[-part:].mean()).sqrt()
    return ratio
