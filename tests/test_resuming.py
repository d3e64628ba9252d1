"""A run that is resumed from a checkpoint goes on: numbers, findings, count of steps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.demo import DeepClassifier
from tests.twins import mlp, nothing_left, silent


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 12, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x, y = batch(step)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = mlp()
    return model, torch.optim.Adam(model.parameters(), 1e-2)


def interrupted(**watching: Any) -> Any:
    """The monitor of a run whose process ended after 30 of 60 steps."""
    model, optimizer = make()
    with silent(model, **watching) as monitor:
        train(model, optimizer, range(30))
        saved = through_a_file(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict()} | monitor.state_dict()
        )
    model, optimizer = make()
    model.load_state_dict(saved.pop("model"))
    optimizer.load_state_dict(saved.pop("optimizer"))
    with silent(model, **watching) as monitor:
        monitor.load_state_dict(saved)
        assert monitor.step == 30
        train(model, optimizer, range(30, 60))
    return monitor


def test_the_numbers_are_those_of_one_run() -> None:
    model, optimizer = make()
    with silent(model, every=3) as expected:
        train(model, optimizer, range(60))
    monitor = interrupted(every=3)
    assert monitor.step == 60
    for name in ("loss", "activation_rms", "gradient_norm", "update_ratio", "learning_rate"):
        table, other = monitor.history.table(name), expected.history.table(name)
        assert table.steps.tolist() == other.steps.tolist(), name
        assert table.values == pytest.approx(other.values, rel=1e-5), name
    assert monitor.faults == {}
    assert [p.group for p in monitor.history.facts.parameters] == [0] * 6


def test_it_is_sampled_densely_again() -> None:
    """What a sample costs has to be measured again; until then it must not be taken for too expensive."""
    steps = interrupted().history.table("activation_rms").steps
    assert [step for step in steps.tolist() if 30 < step <= 50] == list(range(31, 51))


def test_findings_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    def watched(state: dict[str, Any] | None) -> Any:
        torch.manual_seed(0)
        model = DeepClassifier(pixels=12, classes=4)
        monitor = silent(model, every=1)
        if state is not None:
            monitor.load_state_dict(state)
            assert [finding.rule for finding in monitor.findings] == ["poor-initialization"]
        train(model, torch.optim.SGD(model.parameters(), 0.1), range(5))
        return monitor

    first = watched(None)
    state = through_a_file(first.state_dict())
    first.close()
    second = watched(state)
    assert [(f.rule, f.step) for f in second.findings] == [("poor-initialization", 1)]
    assert second.history.context["resumed"] == 5
    again = through_a_file(second.state_dict())
    second.close()
    third = watched(again)
    assert third.step == 15
    third.close()


def test_two_optimizers() -> None:
    def run(model: nn.ModuleDict, steps: int) -> None:
        optimizers = [torch.optim.SGD(part.parameters(), 0.01) for part in model.values()]
        for step in range(steps):
            for part, optimizer in zip(model.values(), optimizers, strict=True):
                F.cross_entropy(part(batch(step)[0]), batch(step)[1]).backward()
                optimizer.step()
                optimizer.zero_grad()

    model = nn.ModuleDict({"first": mlp(), "second": mlp()})
    with silent(model, every=1) as monitor:
        run(model, 4)
        state = monitor.state_dict()
    other = nn.ModuleDict({"first": mlp(), "second": mlp()})
    with silent(other, every=1) as monitor:
        monitor.load_state_dict(state)
        run(other, 4)
        assert monitor.step == 8
        assert monitor.history.table("update_rms").steps.tolist() == list(range(1, 9))


def test_a_state_that_cannot_be_used_is_refused() -> None:
    model, optimizer = make()
    with silent(model) as monitor:
        state = monitor.state_dict()
        for wrong, says in (
            ({}, "no state of a netdoctor monitor"),
            ({"step": 3, "history": torch.zeros(9)}, "no state of a netdoctor monitor"),
            ({"step": 3, "history": torch.zeros(9, dtype=torch.uint8)}, "damaged"),
        ):
            with pytest.raises(ValueError, match=says):
                monitor.load_state_dict(wrong)
        train(model, optimizer, range(1))
        with pytest.raises(RuntimeError, match="before the first step, not after 1"):
            monitor.load_state_dict(state)
    other = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    with (
        silent(other) as monitor,
        pytest.raises(ValueError, match=r"another model: they differ in 2.bias, 2.weight, 3 and"),
    ):
        monitor.load_state_dict(state)
