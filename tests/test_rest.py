"""Between two samples the losses are taken down as they are at sampled steps, whatever the loop does."""

from __future__ import annotations

from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

import netdoctor
from netdoctor.probes.jumps import Jumps
from netdoctor.probes.origin import Origins

EVENTS = (
    "backward",
    "step",
    "step",
    "step with a closure",
    "another model",
    "validation",
    "history",
)
OTHERS = ("another optimizer of the model", "observation")  # where both come, what was given may come too early


def run(events: list[str], every: int) -> netdoctor.History:
    torch.manual_seed(0)
    model, other = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizer, second = (torch.optim.SGD(model.parameters(), 1e-3) for _ in range(2))
    elsewhere = torch.optim.SGD(other.parameters(), 1e-3)
    x, count = torch.randn(8, 3), 0

    def backward(of: nn.Module = model) -> torch.Tensor:
        nonlocal count
        count += 1
        loss: torch.Tensor = count * (1 + of(x).square().mean() / 100)
        loss.backward()
        return loss

    with netdoctor.watch(model, reporters=[], rules=[], every=every) as monitor:
        for event in ["backward", "step", *events]:
            match event:
                case "backward":
                    backward()
                case "step":
                    optimizer.step()
                case "step with a closure":
                    optimizer.step(backward)
                case "another model":
                    backward(other)
                    elsewhere.step()
                case "another optimizer of the model":
                    second.step()
                case "validation":
                    with torch.no_grad():
                        nn.functional.mse_loss(model(x), x[:, :1])
                case "observation":
                    monitor.observe(loss=7.0)
                case "history":
                    _ = monitor.history
    return monitor.history


@settings(max_examples=60, deadline=None)
@given(some.sampled_from(OTHERS).flatmap(lambda other: some.lists(some.sampled_from((*EVENTS, other)), min_size=30)))
def test_losses_are_those_of_a_run_without_rests(events: list[str]) -> None:
    rested, sampled = (run(events, every).table("loss") for every in (10**6, 1))
    assert rested.columns == sampled.columns
    assert np.array_equal(rested.steps, sampled.steps)
    assert np.array_equal(rested.values, sampled.values, equal_nan=True)


def test_a_rest_is_what_it_takes() -> None:
    """The test above would pass without any."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with netdoctor.watch(model, reporters=[], every=10**6) as monitor:
        for _ in range(40):
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
        assert monitor._recorder._rest is not None
        assert len(monitor._recorder._rest.losses) > 30


def test_a_fault_within_a_rest_loses_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*args: object) -> None:
        raise RuntimeError

    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with netdoctor.watch(model, reporters=[], every=10**6) as monitor:
        for step in range(60):
            loss = model(torch.randn(8, 3)).square().mean()
            if step == 30:
                monkeypatch.setattr(Origins, "look", fault)
                loss = loss * torch.nan
            loss.backward()
            optimizer.zero_grad()  # the NaN is to stay out of the weights
            optimizer.step()
        assert list(monitor.faults) == ["the loss"]
        assert monitor.step == 60
        assert monitor.history.table("loss").steps.tolist() == list(range(1, 61))


def test_losses_of_the_own_model_count_after_steps_of_another_one() -> None:
    """A discriminator that is watched by itself, with a loss for each kind of picture."""
    torch.manual_seed(0)
    judge, maker = nn.Linear(3, 1), nn.Linear(2, 3)
    judging, making = (torch.optim.SGD(model.parameters(), 0.0) for model in (judge, maker))
    with netdoctor.watch(judge, reporters=[], rules=[], every=7) as monitor:
        for _ in range(60):
            for value in (1.0, 2.0):
                (value + 0 * judge(torch.randn(4, 3)).mean()).backward()
            judging.step()
            (5.0 + 0 * judge(maker(torch.randn(4, 2))).mean()).backward()
            making.step()
    assert set(monitor.history.table("loss").values.ravel()) == {3.0}


@pytest.mark.parametrize("every", [1, 10**6])
def test_steps_in_another_thread_take_no_losses(every: int) -> None:
    model, other = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizer, elsewhere = (torch.optim.SGD(each.parameters(), 0.0) for each in (model, other))

    def step() -> None:
        other(torch.ones(1, 3)).sum().backward()
        elsewhere.step()

    with netdoctor.watch(model, reporters=[], rules=[], every=every) as monitor:
        for _ in range(40):
            for value in (1.0, 2.0):
                (value + 0 * model(torch.ones(1, 3)).sum()).backward()
                thread = Thread(target=step)
                thread.start()
                thread.join()
            optimizer.step()
    assert set(monitor.history.table("loss").values.ravel()) == {3.0}


@given(some.lists(some.floats(-1e3, 1e3) | some.sampled_from([np.nan, np.inf, -np.inf]), max_size=120))
def test_a_jump_is_a_loss_of_four_times_what_was_usual(losses: list[float]) -> None:
    jumps, finite = Jumps(), [0.0]
    for loss in losses:
        ages = np.arange(len(finite))[::-1]
        usual = (np.abs(finite) * 0.98**ages).max()
        jumped = not np.isfinite(loss) or (len(finite) > 51 and abs(loss) > 4 * usual * (1 + 1e-9))
        assert jumps.add(loss) == jumped or abs(abs(loss) / (4 * usual) - 1) < 1e-9
        if np.isfinite(loss):
            finite.append(loss)
