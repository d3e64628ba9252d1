"""missing-nonlinearity on real runs, and on architectures with linear layers in a row on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.findings import Severity
from netdoctor.rules.missing_nonlinearity import missing_nonlinearity as rule
from netdoctor.treatment import RemedyError
from tests.rules.rounds import loud, rounds, rows


class Forgetful(nn.Module):
    """Calls its nonlinearities and drops what they return."""

    def __init__(self, forgets: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 1)
        self.forgets = forgets

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = layer(x)
            bent = F.relu(x)
            x = x if self.forgets else bent
        out: Tensor = self.last(x)
        return out


def test_forgotten_activations_are_named_at_the_first_step_and_put_in() -> None:
    torch.manual_seed(0)
    model = Forgetful()
    (finding,) = rounds(rule, model, rows(32, 8), steps=1)
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("first", "second")
    with pytest.raises(RemedyError, match="does not stand in"):
        finding.remedies[0].apply(model)
    exec(finding.remedies[0].code, {"model": model, "nn": nn})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    assert not rounds(rule, model, rows(64, 8), steps=400, optimizer=optimizer, every=50)
    inputs, targets = rows(500, 8)()
    assert F.mse_loss(model(inputs), targets) < 0.5 * targets.var()


def test_convolutions_and_average_pooling_in_a_row() -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2))
    (finding,) = rounds(rule, model, lambda: (torch.randn(4, 3, 8, 8), torch.randn(4, 2)))
    assert finding.layers == ("0", "2")


def test_a_batch_norm_or_a_dropout_between_them_is_not_what_is_missing() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.Linear(32, 1))
    assert loud(rounds(rule, model, rows(16, 8)))
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 1))  # a nonlinearity of its own
    assert not rounds(rule, model, rows(16, 8))


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(16, 16), nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


class Gated(nn.Module):
    """GLU: half of the units gate the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(16, 64), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.wide(x).chunk(2, -1)
        out: Tensor = self.out(value * torch.sigmoid(gate))
        return out


class Rounded(nn.Module):
    """A straight-through estimator: linear for autograd only."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        out: Tensor = self.decoder(code + (code.sign() - code).detach())
        return out


class ByHand(nn.Module):
    """A nonlinearity that autograd sees as a product with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.last(x * (x > 0))
        return out


class TwoParts(nn.Module):
    """An embedding that ends the one part, and a predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32))
        self.predictor = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.predictor(self.encoder(x))
        return out


class FusedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unsqueeze(1) for part in self.qkv(x.view(-1, 1, 16).expand(-1, 4, -1)).chunk(3, -1))
        out: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1)).mean(1)
        return out


def separable() -> nn.Module:
    depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    layers = [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 1), nn.ReLU(), depthwise, nn.Conv2d(4, 8, 1), nn.ReLU()]
    rows_and_columns = [nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.Conv2d(8, 8, (3, 1), padding=(1, 0)), nn.ReLU()]
    return nn.Sequential(*layers, *rows_and_columns, nn.Flatten(), nn.Linear(128, 16))


def encoder(dropout: float) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        block = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True)
        layers: list[Any] = [nn.Unflatten(1, (1, 16)), nn.TransformerEncoder(block, 2), nn.Flatten(), nn.Linear(16, 16)]
        return nn.Sequential(*layers)

    return make


def normed(bent: bool) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in ((3, 8), (8, 8), (8, 16)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), *([nn.SiLU()] if bent else [])]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))


def test_batch_norms_in_place_of_activations() -> None:
    """In evaluation a batch norm is a linear map, and nearly so in training."""
    torch.manual_seed(0)

    def images() -> tuple[Tensor, Tensor]:
        return torch.randn(4, 3, 8, 8), torch.randn(4, 2)

    (finding,) = loud(rounds(rule, normed(False), images))
    assert finding.layers == ("0", "2", "4")
    assert not rounds(rule, normed(True), images)


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "functional activations": lambda: nn.Sequential(nn.Linear(16, 8), Forgetful(False), nn.Linear(1, 16)),
    "low rank": LowRank,
    "gated": Gated,
    "straight-through": Rounded,
    "relu by hand": ByHand,
    "two parts": TwoParts,
    "attention with one matrix": FusedAttention,
    "separable convolutions": separable,
    "transformer": encoder(0.1),
    "transformer without dropout": encoder(0.0),
    "normed embedding": lambda: nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.BatchNorm1d(24), nn.Linear(24, 16)
    ),
    "linear code": lambda: nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 2), nn.Linear(2, 16)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_quiet_where_it_is_meant(name: str) -> None:
    torch.manual_seed(0)
    assert not rounds(rule, HEALTHY[name](), rows(16, 16, 16))


def test_a_deep_linear_network_with_weights_of_choice_is_a_note() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16, bias=False) for _ in range(6)]
    model = nn.Sequential(*layers)
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
    (note,) = rounds(rule, model, rows(16, 16, 16))
    assert note.severity is Severity.NOTE


def test_a_head_behind_a_backbone_that_ends_linearly_is_its_authors_choice() -> None:
    backbone = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32))
    assert not rounds(rule, nn.Sequential(backbone, nn.Linear(32, 1)), rows(16, 8))
    blocks = [nn.Sequential(nn.Linear(8, 32)), nn.Sequential(nn.Linear(32, 32)), nn.Sequential(nn.Linear(32, 1))]
    assert loud(rounds(rule, nn.Sequential(*blocks), rows(16, 8)))
