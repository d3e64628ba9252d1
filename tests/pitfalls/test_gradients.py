"""Gradients as the optimizer gets them: accumulated, unclipped, of any kind of tensor."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.probes.origin import finite
from tests.twins import faults, mlp, silent


def batch(inputs: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(8, inputs), torch.randint(0, 4, (8,))


def test_accumulation_is_counted_in_optimizer_steps() -> None:
    """Pitfall 8: hooks on parameters fire for every micro-batch, with its share of the gradient only."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model, every=1) as monitor:
        for _ in range(3):
            for _ in range(4):
                x, y = batch()
                (F.cross_entropy(model(x), y) / 4).backward()
            norm = math.hypot(*(float(p.grad.norm()) for p in model.parameters() if p.grad is not None))
            optimizer.step()
            optimizer.zero_grad()
            assert monitor.history.latest("gradient_norm")[""] == pytest.approx(norm, rel=1e-5)
        assert monitor.step == 3
        assert monitor.history.table("activation_rms").steps.tolist() == [1, 2, 3]


def test_clipping_does_not_hide_an_explosion() -> None:
    """Pitfall 9: a step hook alone would see a norm of 1."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with silent(model, every=1) as monitor:
        x, y = batch()
        (1000 * F.cross_entropy(model(x), y)).backward()
        before = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        assert before > 100
        assert monitor.history.latest("gradient_norm")[""] == pytest.approx(before, rel=1e-4)
        assert monitor.history.latest("clipped_gradient_norm")[""] == pytest.approx(1, rel=1e-3)


class Experts(nn.Module):
    """Of four experts the same one is chosen for 30 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(12, 4) for _ in range(4))
        self.chosen = 0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts[self.chosen](x)
        return out


@pytest.mark.parametrize("to_none", [True, False])
def test_unused_experts(to_none: bool) -> None:
    """Pitfall 32: no gradient is neither a gradient of 0 nor a vanishing one; an expert may come into use later."""
    model = Experts()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with silent(model, every=1) as monitor:
        for model.chosen in (0, 0, 1, 0):
            x, y = batch()
            optimizer.zero_grad(set_to_none=to_none)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        missing = monitor.history.table("gradient_missing")
        of_one = missing.values[:, missing.columns.index("experts.1.weight")].tolist()
        assert of_one == ([1, 1, 0, 1] if to_none else [1, 1, 0, 0])
        assert monitor.history.series("gradient_rms", "experts.3.weight")[1].tolist() == []
        layers = {layer.name: layer.called for layer in monitor.history.facts.layers}
        assert layers == {f"experts.{i}": i < 2 for i in range(4)}
        connected = {p.name: p.connected for p in monitor.history.facts.parameters if p.name.endswith("weight")}
        assert connected == {f"experts.{i}.weight": i < 2 for i in range(4)}
        assert monitor.diagnose().healthy
        assert faults(monitor) == []


def test_norms_of_half_precision_gradients() -> None:
    """Pitfall 35: in float16 a norm above 65,504 is infinite."""
    model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 4)).half()
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    with silent(model, every=1, rules=["non-finite", "exploding-gradient"]) as monitor:
        (400 * model(torch.full((4, 12), 20.0).half()).float().sum()).backward()
        gradients = [p.grad.double() for p in model.parameters() if p.grad is not None]
        norm = math.hypot(*(float(g.norm()) for g in gradients))
        assert norm > 65504
        optimizer.step()
        assert monitor.history.latest("gradient_norm")[""] == pytest.approx(norm, rel=1e-4)
        assert monitor.diagnose().findings == ()


def test_sparse_gradients() -> None:
    """Pitfall 36: they are no strided tensors; what they do to the weights is measured all the same."""
    model = nn.Sequential(nn.Embedding(20, 12, sparse=True), nn.Linear(12, 4))
    sparse = torch.optim.SparseAdam(model[0].parameters(), 1e-2)
    dense = torch.optim.Adam(model[1].parameters(), 1e-2)
    with silent(model, every=1) as monitor:
        for _ in range(6):
            loss = F.cross_entropy(model(torch.randint(0, 20, (8,))), torch.randint(0, 4, (8,)))
            loss.backward()
            for optimizer in (sparse, dense):
                optimizer.step()
                optimizer.zero_grad()
        latest = monitor.history.latest
        assert "0.weight" not in latest("gradient_rms")
        assert latest("gradient_missing")["0.weight"] == 0
        assert latest("update_ratio")["0.weight"] > 0
        assert [finding.rule for finding in monitor.diagnose().findings] == []
        assert faults(monitor) == []


def test_parameters_of_other_formats() -> None:
    """Pitfall 36: packed 4-bit weights are integers, and float8 cannot even be added up."""

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(12, 16), nn.Linear(16, 4)
            self.packed = nn.Parameter(torch.zeros(64, 1, dtype=torch.uint8), requires_grad=False)
            self.scales = nn.Parameter(torch.full((16, 16), 0.5).to(torch.float8_e4m3fn), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.first(x) @ self.scales.float())
            return out

    model = Quantised()
    with silent(model, every=1) as monitor:
        x, y = batch()
        F.cross_entropy(model(x), y).backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
        assert monitor.history.latest("weight_rms")["scales"] == pytest.approx(0.5)
        assert "packed" not in monitor.history.latest("weight_rms")
        assert faults(monitor) == []
        model(torch.full((8, 12), torch.nan)).mean().backward()
        assert monitor.history.facts.non_finite.stage == "input"
    assert not finite(torch.full((2,), torch.nan).to(torch.float8_e4m3fn))
