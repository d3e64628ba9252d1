"""Samples that are reduced with those of other steps give the numbers that each gives by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import netdoctor
from netdoctor import History, recorder
from netdoctor.probes.planes import Planes

STEPS = 11


def plain(every: int) -> History:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(2, 1, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with netdoctor.watch(model, reporters=[], every=every) as monitor:
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.arange(16) % 5).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    return monitor.history


def two_optimizers(every: int) -> History:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"maker": nn.Linear(4, 2), "judge": nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))}
    )
    made, judged = (torch.optim.Adam(model[name].parameters(), 0.01) for name in ("maker", "judge"))
    with netdoctor.watch(model, reporters=[], every=every) as monitor:
        for _ in range(STEPS):
            fake = model["maker"](torch.randn(16, 4))
            judged.zero_grad()
            real = model["judge"](torch.randn(16, 2))
            (nn.functional.softplus(-real) + nn.functional.softplus(model["judge"](fake.detach()))).mean().backward()
            judged.step()
            made.zero_grad()
            nn.functional.softplus(-model["judge"](fake)).mean().backward()
            made.step()
    return monitor.history


def without_backward(every: int) -> History:
    """Gradients that come from elsewhere."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with netdoctor.watch(model, reporters=[], every=every) as monitor:
        for _ in range(STEPS):
            loss = model(torch.randn(8, 3)).square().mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    return monitor.history


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("train", [plain, two_optimizers, without_backward])
def test_the_history_is_the_same_whether_steps_are_reduced_together(
    train: Callable[[int], History], every: int, monkeypatch: pytest.MonkeyPatch
):
    together = train(every)
    monkeypatch.setattr(recorder, "PLANES", 1)
    alone = train(every)
    assert together.statistics == alone.statistics
    assert together == alone


def test_sums_are_worked_out_when_one_is_asked_for_or_no_plane_is_free():
    device, asked = torch.device("cpu"), []
    planes = Planes(1, 1, 4, count=3, kept=slice(None))

    def sums(first: int, end: int) -> dict[torch.device, torch.Tensor]:
        asked.append((first, end))
        return {device: planes.values[device][first:end].sum((2, 3))}

    found = []
    for step in range(8):
        planes.advance()
        planes.clear()
        planes.present.store(0, torch.full((1, 4), float(step)))
        found.append(planes.take(sums)[device])
        if step == 5:
            assert found[5].numpy() == [20.0]
    assert [float(each.numpy()[0]) for each in found] == [4.0 * step for step in range(8)]
    assert asked == [(2, 4), (1, 4), (1, 2), (2, 4)]  # planes of a turn together
    assert float(planes.past.values[device].sum()) == 24.0


def deep(read: bool) -> History:
    """More parameters than are reduced at once; the sums of a step are asked for when the next one has begun."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(40, 40) for _ in range(80)))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with netdoctor.watch(model, reporters=[], rules=[], every=1) as monitor:
        monitor._schedule.judging.stop()  # it asks for them, too
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(8, 40)).square().mean().backward()
            optimizer.step()
            assert not read or len(monitor.history.table("weight_rms"))
    return monitor.history


def test_a_history_that_is_read_between_the_steps_is_the_same():
    read, unread = deep(read=True), deep(read=False)
    assert set(read.statistics) == set(unread.statistics)
    for statistic in read.statistics:
        np.testing.assert_array_equal(read.table(statistic).values, unread.table(statistic).values)


def test_a_parameter_that_is_cut_where_it_is_in_memory():
    torch.manual_seed(0)
    model = nn.Linear(4, 6, bias=False)
    with torch.no_grad():
        model.weight[3:] = 100.0
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with netdoctor.watch(model, reporters=[], rules=[], every=1) as monitor:
        for step in range(1, 13):
            if step == 7:
                model.weight.data = model.weight.data[:3]
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    rms = monitor.history.table("weight_rms").values.ravel()
    assert (rms[:6] > 50).all()
    assert rms[6:] == pytest.approx(model.weight.square().mean().sqrt().item())


@pytest.mark.parametrize("swap", ["data", "tensor", "in place"])
def test_a_gradient_that_is_replaced_before_the_step_is_seen_as_the_step_uses_it(swap: str):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            gradient = model.weight.grad
            assert gradient is not None
            if swap == "data":
                gradient.data = torch.full((2, 3), 7.0)
            elif swap == "tensor":
                model.weight.grad = torch.full((2, 3), 7.0)
            else:
                gradient.data.fill_(7.0)
            optimizer.step()
    used = monitor.history.series("clipped_gradient_rms", "weight")[1]
    assert used.tolist() == pytest.approx([7.0] * 3)
