"""mixed-samples on real runs: layers that take the batch for time, and those that rightly take time first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding
from netdoctor.rules.mixed_samples import mixed_samples as rule


class Reader(nn.Module):
    """A class for each sequence, from its last state or from the mean over its attention."""

    def __init__(self, core: nn.Module, time: int) -> None:
        super().__init__()
        self.core, self.head, self.time = core, nn.Linear(16, 3), time

    def forward(self, x: Tensor) -> Tensor:
        states = self.core(x)
        states = states[0] if isinstance(states, tuple) else states
        out: Tensor = self.head(states.mean(self.time))
        return out


def _findings(core: nn.Module, time: int = 1, length: int = 7) -> tuple[Finding, ...]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Reader(core, time)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=1)
    for _ in range(3):
        x = torch.randn(20, length, 16)
        loss = F.cross_entropy(model(x if time else x.transpose(0, 1)), torch.randint(0, 3, (20,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    findings = monitor.diagnose().findings
    monitor.close()
    return findings


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_that_take_the_batch_for_time(kind: Callable[..., nn.RNNBase]) -> None:
    core = kind(16, 16)
    (found,) = _findings(core)
    assert found.layers == ("core",)
    assert "20 and 7" in found.message
    exec(found.remedies[0].code, {"model": Reader(core, 1)})
    assert not _findings(core)


def test_attention_between_the_samples_of_a_batch() -> None:
    (found,) = _findings(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False))
    assert found.layers == ("core.layers.0.self_attn", "core.layers.1.self_attn")
    batch_first = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert not _findings(nn.TransformerEncoder(batch_first, 2, enable_nested_tensor=False))


def test_quiet_where_time_comes_first_or_cannot_be_told_from_the_batch() -> None:
    assert not _findings(nn.LSTM(16, 16), time=0)
    assert not _findings(nn.LSTM(16, 16), length=20)
    assert not _findings(nn.LSTM(16, 16), length=1)


class Exchanging(nn.Module):
    """Reads from a recurrent layer or attention, once batch and time have changed places in one way or another."""

    def __init__(self, core: nn.Module, exchange: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.core, self.exchange = nn.Linear(16, 16), core, exchange

    def forward(self, x: Tensor) -> Tensor:
        x = self.exchange(self.embed(x))
        states: Tensor = (self.core(x, x, x) if isinstance(self.core, nn.MultiheadAttention) else self.core(x))[0]
        return states.transpose(0, 1)


EXCHANGES: list[tuple[Callable[[Tensor], Tensor], bool]] = [
    (lambda x: x.view(x.shape[1], x.shape[0], -1), True),
    (lambda x: x.transpose(0, 1), False),
    (lambda x: x.transpose(0, 1).contiguous(), False),
    (lambda x: x.flatten(0, 1).view(x.shape).transpose(0, 1), False),
]


@pytest.mark.parametrize("core", [nn.GRU(16, 16), nn.MultiheadAttention(16, 2)])
@pytest.mark.parametrize(("exchange", "mixes"), EXCHANGES)
def test_a_view_in_place_of_a_transpose(core: nn.Module, exchange: Callable[[Tensor], Tensor], mixes: bool) -> None:
    findings = _findings(Exchanging(core, exchange))
    assert [finding.layers for finding in findings] == [("core.core",)] * mixes
    assert all("of [7, 20, …] is a view of [20, 7, …]" in finding.message for finding in findings)


class Averaging(nn.Module):
    """Each row is answered from the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(0.5 * x + x.roll(1, 0))
        return out


@pytest.mark.parametrize("asked", [40, 30])
def test_nodes_of_a_graph_of_which_some_have_a_target(asked: int) -> None:
    torch.manual_seed(0)
    model, x, y = Averaging(), torch.randn(40, 8), torch.randint(0, 3, (40,))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    diagnosis = netdoctor.checkup(
        model, (x, y), lambda answer, target: F.cross_entropy(answer[:asked], target[:asked]), optimizer
    )
    assert [finding.rule for finding in diagnosis.findings] == ["mixed-samples"] * (asked == 40)
