"""Healthy training runs on real data: not one warning, at any step, whatever the seed."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch

from netdoctor import Monitor, Severity, watch
from tests.zoo import ZOO, Animal


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def warnings(monitor: Monitor) -> list[str]:
    """What was raised so far, and what would be raised now."""
    found = (*monitor.findings, *monitor.diagnose().findings)
    return [f"{f.severity.name} {f.rule} at step {f.step}: {f.message}" for f in found if f.severity > Severity.NOTE]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name.replace(" ", "-"))
def test_no_warning_at_any_step(animal: Animal, seed: int) -> None:
    def judge(monitor: Monitor) -> None:
        if monitor.step % 10 == 0:  # more often than the budget lets netdoctor itself
            assert warnings(monitor) == []

    outcome = animal.run(seed, functools.partial(watch, reporters=[]), judge)
    outcome.monitor.close()
    assert warnings(outcome.monitor) == []
    failed = [
        skipped for skipped in outcome.monitor.diagnose().skipped if "failed" in skipped.reason or not skipped.rule
    ]
    assert failed == []


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name.replace(" ", "-"))
def test_no_warning_with_frequent_samples(animal: Animal) -> None:
    outcome = animal.run(3, functools.partial(watch, reporters=[], every=5))
    outcome.monitor.close()
    assert warnings(outcome.monitor) == []
    # The run itself: it learns, and does not end far above its best validation loss.
    assert sum(outcome.losses[-10:]) / 10 < 0.6 * outcome.losses[0]
    assert outcome.val_losses[-1] < min(outcome.val_losses) + 0.1 * outcome.val_losses[0]
