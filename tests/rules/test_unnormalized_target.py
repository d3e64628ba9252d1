"""unnormalized-target: what its remedy takes for the scale, and where that is left to a human hand."""

from __future__ import annotations

import pytest

from netdoctor.facts import Facts, Group, Layer, Loss
from netdoctor.findings import Evidence
from netdoctor.history import History
from netdoctor.measured_remedies import standardise_targets
from netdoctor.rules.unnormalized_target import fires, quiet, unnormalized_target


def targets(rms: float, mean: float, std: float, optimizer: str = "Adam") -> History:
    facts = Facts(
        layers=(Layer("fc", "linear", called=True),),
        groups=(Group(optimizer, 0, 1e-3),),
        loss=Loss("mse", ("MseLossBackward0",), layer="fc"),
    )
    return History.of(facts, target_rms=[rms], target_mean=[mean], target_std=[std])


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    (evidence,) = unnormalized_target(history)
    assert isinstance(evidence, Evidence)
    assert evidence.remedies[0].applicable


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not [answer for answer in unnormalized_target(history) if isinstance(answer, Evidence)]


def test_one_unit_is_carried_out_and_several_are_left_to_a_human_hand() -> None:
    (alike,) = standardise_targets(targets(112.0, 100.0, 50.0))
    (apart,) = standardise_targets(targets(645.0, 330.0, 290.0))  # columns of means 1000, 0, 0
    assert alike.applicable
    assert not apart.applicable


def test_nothing_to_standardise_without_values() -> None:
    assert standardise_targets(History.of(Facts(loss=Loss("cross-entropy")), target_rms=[50.0])) == ()
    assert standardise_targets(History.of(Facts(loss=Loss("mse")), loss=[1.0])) == ()
