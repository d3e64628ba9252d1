"""expert-imbalance on real runs: a gate that sends all to one expert, balanced ones, and what only looks like one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding
from netdoctor.rules.expert_imbalance import expert_imbalance
from netdoctor.rules.no_gradient import no_gradient
from tests.rules.training import digits

X, Y = digits()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Mixture(nn.Module):
    """The best of four experts for each row; or all of them, weighed."""

    def __init__(self, dense: bool = False) -> None:
        super().__init__()
        self.dense = dense
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        chances: Tensor = self.gate(x).softmax(1)
        if self.dense:
            return torch.stack([expert(x) for expert in self.experts], 1).mul(chances[:, :, None]).sum(1)
        best, chosen = chances.max(1)
        out = x.new_zeros(len(x), 10)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().squeeze(1)
            if len(rows):
                out = out.index_add(0, rows, best[rows, None] * expert(x[rows]))
        return out


def shares(model: Mixture) -> Tensor:
    with torch.no_grad():
        return F.one_hot(model.gate(X).argmax(1), 4).float().mean(0)


def train(
    model: nn.Module, steps: int, optimizer: torch.optim.Optimizer | None = None, balance: float = 0.0
) -> list[Finding]:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 3e-3)
    found: list[Finding] = []
    with netdoctor.watch(model, reporters=[], rules=[expert_imbalance, no_gradient], every=2) as monitor:
        for step in range(1, steps + 1):
            rows = torch.randint(len(X), (64,))
            loss = F.cross_entropy(model(X[rows]), Y[rows])
            if balance:
                chances = model.get_submodule("gate")(X[rows]).softmax(1)
                load = F.one_hot(chances.argmax(1), 4).float().mean(0)
                loss = loss + balance * 4 * (load * chances.mean(0)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                found += monitor.diagnose().findings
    return found


@pytest.mark.parametrize("apply", [True, False])
def test_one_expert_that_gets_everything_is_found_and_cured(apply: bool):
    model = Mixture()
    model.gate.weight.data.mul_(0.1)
    model.gate.bias.data[2] = 1.5
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    found = train(model, 60, optimizer)
    assert {each.rule for each in found} == {"expert-imbalance"}  # experts without a gradient are its symptom
    assert found[0].layers[:2] == ("gate", "experts.0.0")
    assert shares(model)[2] > 0.99
    remedy = found[-1].remedies[0]
    if apply:
        remedy.apply(model, optimizer)
    else:
        exec(remedy.code, {"model": model, "nn": nn, "torch": torch, "F": F})
    found = train(model, 200, optimizer)
    assert shares(model).max() < 0.6
    assert not [each for each in found[10:] if each.rule == "expert-imbalance"]


@pytest.mark.parametrize("seed", range(2))
def test_a_balanced_mixture_is_quiet(seed: int):
    torch.manual_seed(seed)
    model = Mixture()
    assert not [each for each in train(model, 150, balance=0.1) if each.rule == "expert-imbalance"]


def test_experts_that_are_all_called_are_judged_by_the_gates_softmax():
    model = Mixture(dense=True)
    model.gate.weight.data.zero_()
    model.gate.bias.data[1] = 8.0
    found = train(model, 20, torch.optim.SGD(model.parameters(), 1e-3))
    assert found[0].layers == ("gate",)


def test_heads_of_tasks_are_no_experts():
    model = nn.ModuleDict({"stem": nn.Linear(64, 4), "heads": nn.ModuleList(nn.Linear(4, 10) for _ in range(3))})
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    heads = model["heads"]
    assert isinstance(heads, nn.ModuleList)
    with netdoctor.watch(model, reporters=[], rules=[expert_imbalance], every=1) as monitor:
        for _ in range(30):
            F.cross_entropy(heads[0](model["stem"](X[:64]).softmax(1)), Y[:64]).backward()
            optimizer.step()
        assert not monitor.diagnose().findings
