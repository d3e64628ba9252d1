"""weight-growth: what its remedy holds, and at which size."""

from __future__ import annotations

import torch
from torch import nn

from netdoctor.facts import Facts, Parameter
from netdoctor.history import History
from netdoctor.measured_remedies import bound_weights


def grown(model: nn.Module) -> History:
    roles = {"0.weight": "weight", "0.bias": "bias", "1.weight": "norm", "1.bias": "norm"}
    parameters = tuple(
        Parameter(name, name[0], tuple(value.shape), roles[name], group=0) for name, value in model.named_parameters()
    )
    sizes = {name: [float(value.detach().square().mean().sqrt())] for name, value in model.named_parameters()}
    return History.of(Facts(parameters=parameters), weight_rms=sizes)


def test_weights_alone_or_every_parameter_keep_their_size() -> None:
    for every, held in ((False, {"0.weight"}), (True, {"0.weight", "0.bias", "1.weight", "1.bias"})):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        before = {name: float(value.detach().square().mean().sqrt()) for name, value in model.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        remedy = bound_weights(grown(model), every)
        assert remedy.unbounded
        remedy.apply(model, optimizer)
        for _ in range(20):
            optimizer.zero_grad()
            flat = torch.cat([value.flatten() for value in model.parameters()])
            (-0.5 * (flat + 0.1).square().sum()).backward()
            optimizer.step()
        for name, value in model.named_parameters():
            size = float(value.detach().square().mean().sqrt())
            bound = before[name] or 1.0  # a bias of a norm begins at 0
            assert (size < 1.01 * bound) == (name in held)
