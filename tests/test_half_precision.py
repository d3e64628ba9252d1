"""Gradient scalers that leave steps out, and weights that rounding keeps where they are."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

import netdoctor
from netdoctor import Monitor
from netdoctor.history import History

OVERFLOWS = (1, 2, 5)  # steps whose gradients are Inf
STEPS = 8


def data(step: int) -> Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))


def scaled_run(fused: bool, clip: bool = False, accumulate: int = 1) -> tuple[History, list[float]]:
    """Eight steps, of which the scaler leaves out three; the history and the losses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=fused)
    scaler = GradScaler("cpu", init_scale=1024.0)
    monitor = netdoctor.watch(model, every=1, reporters=[])
    losses = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        total = 0.0
        for part in range(accumulate):
            loss = model(data(10 * step + part)).square().mean() / accumulate
            scaler.scale(loss).backward()
            total += float(loss.detach())
        losses.append(total)
        if step in OVERFLOWS:
            next(model.parameters()).grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
    monitor.diagnose()
    assert not monitor.faults
    monitor.close()
    return monitor.history, losses


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_left_out_is_a_step_with_a_loss_of_its_own(fused: bool, accumulate: int) -> None:
    history, losses = scaled_run(fused, accumulate=accumulate)
    steps, seen = history.series("loss")
    assert steps.tolist() == list(range(1, STEPS + 1))
    assert seen.tolist() == pytest.approx(losses, rel=1e-5)
    counts = dict(zip(*(series.tolist() for series in history.series("skipped_steps")), strict=True))
    assert [counts[step] for step in range(1, STEPS + 1)] == [1, 2, 2, 2, 3, 3, 3, 3]
    scales = history.series("loss_scale")[1].tolist()
    assert scales == [1024.0, 512.0, 256.0, 256.0, 256.0, 128.0, 128.0, 128.0]  # each as its step met it


def test_an_optimizer_that_takes_the_scale_off_itself_reads_the_same() -> None:
    """Norms, cosines and gains of the steps that were made, beside those of the plain optimizer."""
    plain, fused = scaled_run(False)[0], scaled_run(True)[0]
    made = [step for step in range(1, STEPS + 1) if step not in OVERFLOWS]
    for statistic in ("gradient_norm", "clipped_gradient_norm", "step_gain", "cosine"):
        steps, values = fused.series(statistic)
        here = dict(zip(steps.tolist(), values.tolist(), strict=True))
        steps, values = plain.series(statistic)
        there = dict(zip(steps.tolist(), values.tolist(), strict=True))
        assert set(there) <= set(made)
        for step, value in there.items():
            assert here[step] == pytest.approx(value, rel=1e-3, abs=1e-6), (statistic, step)
    clipped = scaled_run(True, clip=True)[0].series("clipped_gradient_norm")[1]  # unscaled by hand before the step
    assert max(clipped) == pytest.approx(0.1, rel=1e-3)


def test_a_run_whose_every_step_is_left_out_goes_on_being_judged() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = GradScaler("cpu")
    monitor: Monitor = netdoctor.watch(model, every=1, reporters=[])
    for step in range(120):
        optimizer.zero_grad()
        scaler.scale((model(data(step)) * torch.inf).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert monitor.step == 120
    assert monitor.history.latest("skipped_steps")[""] == 120
    assert not monitor.history.facts.unstepped  # steps were asked for
    assert len(monitor.history.table("loss")) == 120
    monitor.close()


def test_the_scaler_is_as_before_once_nobody_watches() -> None:
    gc.collect()  # monitors of other tests' models patch it, too
    original = GradScaler.step
    models = [nn.Linear(2, 2), nn.Linear(2, 2)]
    for monitor in [netdoctor.watch(model, reporters=[]) for model in models]:
        assert GradScaler.step is not original
        monitor.close()
    assert GradScaler.step is original


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_unchanged_share_counts_what_rounding_keeps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), 2e-2)
    monitor = netdoctor.watch(model, every=1, reporters=[])
    shares = []
    for step in range(4):
        optimizer.zero_grad()
        model(torch.randn(32, 8, generator=torch.Generator().manual_seed(step)).to(dtype)).square().mean().backward()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        pulled = {name: parameter.grad != 0 for name, parameter in model.named_parameters()}
        optimizer.step()
        shares.append(
            {
                name: float((parameter == before[name])[pulled[name]].float().mean())
                for name, parameter in model.named_parameters()
            }
        )
    table = monitor.history.table("unchanged_share")
    monitor.close()
    if dtype == torch.float32:
        assert not len(table)
        return
    assert table.columns == tuple(shares[0])
    for row, wanted in zip(table.values, shares, strict=True):
        assert row.tolist() == pytest.approx(list(wanted.values()), rel=1e-5, nan_ok=True)
    assert table.values[:, 0].max() > 0.2
