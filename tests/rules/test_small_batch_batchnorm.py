"""small-batch-batchnorm on real runs."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.findings import Severity
from netdoctor.rules.small_batch_batchnorm import small_batch_batchnorm as rule
from tests.rules.rounds import rounds, rows


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))


def images(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 8, 8), torch.randn(count, 1)


def sides() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(2, 6)
    return inputs, torch.tanh(3 * inputs[:, :1] - 3 * inputs[:, 1:2].abs())


def test_two_rows_are_a_warning_and_layer_norm_trains_on_them() -> None:
    model = network()
    (finding,) = rounds(rule, model, rows(2, 6), steps=8)
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("1",)
    assert "141%" in finding.message
    weight = model[1].weight
    finding.remedies[0].apply(model)
    assert isinstance(model[1], nn.LayerNorm)
    assert model[1].weight is weight
    inputs, targets = (torch.cat(part) for part in zip(*(sides() for _ in range(250)), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    assert not rounds(rule, model, sides, steps=1000, optimizer=optimizer, every=200)
    assert F.mse_loss(model(inputs), targets) < 0.5 * targets.var()
    other = network()
    exec(finding.remedies[0].code, {"model": other, "nn": nn})
    assert isinstance(other[1], nn.LayerNorm)


def test_images_by_their_number_not_by_their_pixels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 1))
    (finding,) = rounds(rule, model, lambda: images(3), steps=8)
    assert finding.severity is Severity.WARNING
    other = copy.deepcopy(model)
    finding.remedies[0].apply(other)
    assert isinstance(other[1], nn.GroupNorm)
    (note,) = rounds(rule, model, lambda: images(6), steps=8)
    assert note.severity is Severity.NOTE
    (note,) = rounds(rule, model, lambda: images(1), steps=8)  # an instance norm
    assert note.severity is Severity.NOTE


class Frames(nn.Module):
    """Videos, whose frames are normalised as one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.norm(self.conv(x.flatten(0, 1))).flatten(1)
        out: Tensor = self.head(frames).view(x.shape[0], x.shape[1], 1).mean(1)
        return out


def test_quiet() -> None:
    assert not rounds(rule, network(), rows(16, 6), steps=8)
    videos = (torch.randn(2, 10, 1, 8, 8), torch.randn(2, 1))
    assert not rounds(rule, Frames(), lambda: (videos[0] + torch.randn(1), videos[1]), steps=8)
    frozen = network()
    frozen[1].eval()
    assert not rounds(rule, frozen, rows(2, 6), steps=8)
    all_of_it = rows(3, 6)()
    assert not rounds(rule, network(), lambda: all_of_it, steps=8)  # the whole data set in each step
    layer_norm = nn.Sequential(nn.Linear(6, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))
    assert not rounds(rule, layer_norm, rows(2, 6), steps=8)
