"""The promise on cures, on the clinic: what findings advise cures, a trial names it, a checkup finds common faults."""

from __future__ import annotations

import pytest

from tests.clinic.catalogue import Run, runs
from tests.clinic.checkups import FAULTS, Checkup, check_up
from tests.clinic.cure import Cure, cure
from tests.clinic.pool import each

pytestmark = pytest.mark.slow

# One of each kind of remedy. The shares of all cases are printed by ``python -m tests.clinic --cure``.
CURED = (
    "softmax-before-cross-entropy",
    "relu-on-logits",
    "raw-disease-progression",
    "rnn-on-large-inputs",
    "dropout-of-nine-tenths",
    "twelve-sigmoids",
    "linear-layers-in-a-row",
    "zero-grad-missing",
    "lstm-that-forgets",
)


@pytest.fixture(scope="module")
def cures() -> list[Cure]:
    return [done for _, done in each(cure, [Run(name, "sick", 0) for name in CURED])]


@pytest.fixture(scope="module")
def checkups() -> list[Checkup]:
    return [done for _, done in each(check_up, runs(1)) if not done.failed]


def test_the_first_remedy_cures(cures: list[Cure]) -> None:
    assert [done for done in cures if not done.first_cures] == []


def test_a_trial_puts_one_first_that_cures(cures: list[Cure]) -> None:
    assert [done for done in cures if not done.pick_cures] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_common_faults_are_found_before_the_first_step(fault: str, checkups: list[Checkup]) -> None:
    sick = [done for done in checkups if done.run.group == "sick" and done.run.case in FAULTS[fault]]
    assert len(sick) == len(FAULTS[fault])
    assert [done.run.case for done in sick if not done.right] == []


def test_healthy_programs_are_left_alone_before_the_first_step(checkups: list[Checkup]) -> None:
    healthy = [done for done in checkups if done.run.group == "healthy"]
    assert len(healthy) > 150
    assert {done.run.case: done.said for done in healthy if done.said} == {}
