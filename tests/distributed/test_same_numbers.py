"""The numbers of a training on several ranks are those of the same training in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import netdoctor
from netdoctor.statistics import ACTIVATIONS, INPUTS
from tests.distributed import ddp, sharded, trainings
from tests.distributed.processes import Ranks

STEPS = 6
EVERY_STEP = {"every": 1}
# The others come from the first rank's part of the batch: predictions, targets, quantiles and the like.
COMBINED = (
    *("loss", "learning_rate", "gradient_norm", "clipped_gradient_norm", "cosine", "step_gain"),
    *("weight_rms", "weight_std", "unit_spread", "update_rms", "update_ratio", "gradient_missing"),
    *("gradient_rms", "clipped_gradient_rms", "gradient_cosine", "non_finite_weight", "non_finite_gradient"),
    *("activation_gradient_rms", "gradient_zero_share", "non_finite_activation", "dead_share"),
    *(statistic.name for statistic in (*ACTIVATIONS, *INPUTS)),
)


@pytest.fixture(scope="module")
def one_process() -> dict[str, Any]:
    return trainings.in_one_process(STEPS, **EVERY_STEP)


def assert_same(seen: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for rank, each in enumerate(seen):
        assert each["faults"] == {}
        assert each["alone"] == []
        for name in COMBINED:
            columns, steps, values = expected[name]
            told = each["tables"][name]
            assert told[0] == columns, name
            assert told[1].tolist() == steps.tolist(), name
            np.testing.assert_allclose(told[2], values, rtol=1e-4, atol=1e-6, err_msg=f"{name} on rank {rank}")


@pytest.mark.parametrize("inside", [False, True])
def test_ddp(two: Ranks, one_process: dict[str, Any], inside: bool) -> None:
    assert_same(two.run(ddp.train_watched, STEPS, EVERY_STEP, inside), one_process)


def test_ddp_accumulates(two: Ranks) -> None:
    model = trainings.network()
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        ddp.accumulated(model, trainings.batches(2 * STEPS))
    assert_same(two.run(ddp.accumulate_watched, STEPS), trainings.tables(monitor.history))


def test_numbers_that_a_device_delivers_late(two: Ranks, one_process: dict[str, Any]) -> None:
    assert_same(two.run(ddp.train_with_late_numbers, STEPS), one_process)


@pytest.mark.parametrize("how", ["", "watched early", "offload"])
def test_fully_shard(two: Ranks, one_process: dict[str, Any], how: str) -> None:
    assert_same(two.run(sharded.fully_sharded, STEPS, EVERY_STEP, how), one_process)


def test_mixed_precision(two: Ranks, one_process: dict[str, Any]) -> None:
    """Of bfloat16, whose numbers have 3 digits, the larger ones are compared."""
    seen = two.run(sharded.fully_sharded, STEPS, EVERY_STEP, "bfloat16")
    for name in ("loss", "gradient_norm", "weight_rms", "activation_rms", "activation_gradient_rms"):
        np.testing.assert_allclose(seen[0]["tables"][name][2], one_process[name][2], 0.05, atol=1e-3, err_msg=name)


def test_tensor_parallel(two: Ranks, one_process: dict[str, Any]) -> None:
    assert_same(two.run(sharded.tensor_parallel, STEPS, EVERY_STEP), one_process)


@pytest.mark.slow
def test_ddp_of_four(four: Ranks, one_process: dict[str, Any]) -> None:
    assert_same(four.run(ddp.train_watched, STEPS, EVERY_STEP), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", "hybrid"])
def test_fully_shard_of_four(four: Ranks, one_process: dict[str, Any], how: str) -> None:
    """Six channels over four ranks: the last one's shard is empty."""
    assert_same(four.run(sharded.fully_sharded, STEPS, EVERY_STEP, how), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", "fully_shard"])
def test_tensor_parallel_of_four(four: Ranks, one_process: dict[str, Any], how: str) -> None:
    assert_same(four.run(sharded.tensor_parallel, STEPS, EVERY_STEP, how), one_process)
