"""gradient-underflow and loss-scale-collapse on real runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

import netdoctor
from netdoctor.findings import Finding, Severity
from netdoctor.rules.gradient_underflow import gradient_underflow
from netdoctor.rules.loss_scale_collapse import loss_scale_collapse
from tests.rules.training import digits, mlp

LossFunction = Callable[[Tensor, Tensor], Tensor]


def train(
    model: nn.Module,
    loss_function: LossFunction = F.cross_entropy,
    rate: float = 3e-3,
    dtype: torch.dtype | None = None,
    scale: float = 0.0,
    steps: int = 80,
    cure: Finding | None = None,
) -> tuple[list[Finding], float]:
    """Adam on digits, under autocast to ``dtype``, with a gradient scaler where there is a ``scale``."""
    torch.set_num_threads(1)
    inputs, targets = digits()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    scaler = GradScaler("cpu", init_scale=scale or 1.0, enabled=scale > 0)
    given = next(model.parameters()).dtype
    if cure is not None:
        next(remedy for remedy in cure.remedies if remedy.applicable).apply(model, optimizer)
    monitor = netdoctor.watch(model, reporters=[], rules=[gradient_underflow, loss_scale_collapse], every=2)
    losses, raised = [], []
    for _ in range(steps):
        chosen = torch.randint(0, len(inputs), (32,), generator=generator)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            output = model(inputs[chosen].to(given))
        loss = loss_function(output.float(), targets[chosen])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
        raised += [f for f in monitor.findings if f not in raised]
    assert not [s for s in monitor.diagnose().skipped if "failed" in s.reason]
    monitor.close()
    return raised, sum(losses[-10:]) / 10


def tiny(output: Tensor, target: Tensor) -> Tensor:
    return 1e-6 * F.cross_entropy(output, target)


def test_float16_without_a_scaler_is_found_and_cured() -> None:
    (found,), loss = train(mlp(), tiny, dtype=torch.float16)
    assert found.rule == "gradient-underflow"
    assert found.step <= 10
    assert set(found.layers) <= {"0", "2", "4"}
    assert loss > 2e-6
    findings, loss = train(mlp(), tiny, dtype=torch.float16, cure=found)
    assert not findings
    assert loss < 1e-6
    exec(found.remedies[1].code.split("\n")[0], {"torch": torch, "x": torch.ones(1)})


def test_quiet_with_a_scaler_in_bfloat16_and_on_a_usual_loss() -> None:
    assert not train(mlp(), tiny, dtype=torch.float16, scale=2.0**20)[0]
    assert not train(mlp(), tiny, dtype=torch.bfloat16)[0]
    assert not train(mlp(), dtype=torch.float16)[0]


def test_weights_in_bfloat16_that_do_not_move_are_found_and_cured() -> None:
    (found,), loss = train(mlp(width=256).bfloat16(), rate=3e-5, steps=150)
    assert found.rule == "gradient-underflow"
    assert "bfloat16" in found.message
    assert found.severity == Severity.WARNING
    findings, better = train(mlp(width=256).bfloat16(), rate=3e-5, steps=150, cure=found)
    assert not findings
    assert better < loss - 0.2
    assert not train(mlp(width=256).bfloat16(), rate=1e-3, steps=150)[0]  # steps that it can hold


class Squares(nn.Module):
    """Sums of squares that exceed 65504 by far."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((500 * self.features(x)).square() / 500**2)
        return out


def test_an_overflow_of_the_forward_pass_at_any_scale_is_an_error_and_cured() -> None:
    torch.manual_seed(0)
    found = train(Squares(), dtype=torch.float16, scale=2.0**16)[0][0]
    assert found.rule == "loss-scale-collapse"
    assert found.severity == Severity.ERROR
    assert found.step <= 20
    assert "forward" in found.message
    torch.manual_seed(0)
    findings, loss = train(Squares(), dtype=torch.float16, scale=2.0**16, cure=found)
    assert not findings
    assert loss < 1.0


def test_an_infinite_slope_is_blamed_on_the_backward_pass() -> None:
    def rooted(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) + 1e-3 * (output - output[:1]).square().sum(1).sqrt().mean()

    (found,), _ = train(mlp(), rooted, dtype=torch.float16, scale=2.0**16)
    assert found.rule == "loss-scale-collapse"
    assert "backward" in found.message


@pytest.mark.parametrize("scale", [2.0**16, 2.0**26])
def test_quiet_while_a_scaler_finds_its_scale(scale: float) -> None:
    assert not train(mlp(), dtype=torch.float16, scale=scale)[0]
