"""Ranks that watch one training: what they agree on, who speaks, and that none waits for another that is gone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netdoctor.history import History
from tests.distributed import ddp, sharded
from tests.distributed.processes import Ranks, free_port, ranks
from tests.processes import run

STEPS = 8


def test_all_ranks_sample_the_same_steps(two: Ranks) -> None:
    """By the budget, though what a sample takes differs from rank to rank, and from step to step."""
    first, second = two.run(ddp.train_unevenly, 120)
    assert first == second
    assert 10 < len(first) < 110


def test_the_first_rank_speaks(two: Ranks) -> None:
    first, second = two.run(ddp.tell, STEPS)
    assert first[-1] == "close"
    assert "report" in first
    assert second == []


def test_watched_on_the_first_rank_alone(two: Ranks) -> None:
    seen, _ = two.run(ddp.watch_on_first, STEPS)
    assert seen["faults"] == {}
    assert seen["seconds"] < 1
    (reason,) = seen["alone"]
    assert "netdoctor.watch() has to be called on every rank" in reason
    assert seen["tables"]["loss"][1].tolist() == list(range(1, STEPS + 1))


def test_watched_by_all_after_it_was_by_one(two: Ranks) -> None:
    first, second = two.run(ddp.watch_again, STEPS)
    assert first["alone"] == second["alone"] == []
    assert np.array_equal(first["tables"]["loss"][2], second["tables"]["loss"][2])


@pytest.mark.parametrize("name", ["fc1.weight", "out.bias"])
def test_a_parameter_that_is_changed_on_one_rank_is_named(two: Ranks, name: str) -> None:
    seen = two.run(ddp.change_by_hand, STEPS, name, 4)[0]
    ((_, layers, message),) = [finding for finding in seen["findings"] if finding[0] == "replicas-diverged"]
    assert layers == (name.rpartition(".")[0],)
    assert message.startswith(f"{name}, of 10 parameters, is not the same on all ranks since step 5")


def test_replicas_that_are_left_alone_are_the_same(two: Ranks) -> None:
    seen = two.run(ddp.train_watched, STEPS, {"every": 1})[0]
    assert not seen["tables"]["replica_spread"][2].any()


@pytest.mark.parametrize("make", [ddp.wrapped, sharded.wholly, sharded.by_layers])
def test_training_is_the_same_to_the_bit(two: Ranks, make: Callable[[], Any]) -> None:
    for plain, watched in zip(
        two.run(ddp.parameters, STEPS, False, make), two.run(ddp.parameters, STEPS, True, make), strict=True
    ):
        assert all(np.array_equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_a_rank_closes_its_monitor_before_the_others(two: Ranks) -> None:
    first, second = two.run(ddp.leave_early, STEPS)
    assert first["faults"] == second["faults"] == {}
    assert first["tables"]["loss"][1].tolist() == list(range(1, STEPS + 1))
    assert second["tables"]["loss"][1].tolist() == list(range(1, STEPS // 2 + 1))
    assert "did not answer" in first["alone"][0]


def test_nobody_waits_for_a_rank_that_died() -> None:
    with ranks(3) as mortal:
        mortal.start(ddp.die, 6)
        for survivor in (0, 2):
            seconds, fault = mortal.answer(survivor, 60)
            assert not fault or "barrier" in fault  # the test's own
            assert seconds is not None, fault
            assert seconds["after"] < 2
            assert seconds["steps"] >= 6


PROGRAM = """
import torch
from torch import nn

torch.distributed.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(30):
    x = torch.randn(16, 4)
    (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_an_unchanged_program_is_watched_on_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    )
    done = run(*launcher, "-m", "netdoctor", "run", "--save", "run.npz", "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("30 steps watched") + done.stdout.count("30 steps watched") == 1
    spread = History.load(tmp_path / "run.npz").table("replica_spread")
    assert len(spread) > 20
    assert not spread.values.any()
