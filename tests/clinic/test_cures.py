"""The promise on cures, on the clinic: what findings advise cures, a trial names it, a checkup finds common faults."""

from __future__ import annotations

import pytest

from tests.clinic.catalogue import runs
from tests.clinic.checkups import FAULTS, Checkup, check_up
from tests.clinic.cure import Cure, cure
from tests.clinic.cure_table import judged, uncured
from tests.clinic.pool import each

pytestmark = pytest.mark.slow

CURED = 0.85  # of the runs with a remedy that can be applied; 0.9 is the aim, and cases at the edge turn with the clock


@pytest.fixture(scope="module")
def cures() -> list[Cure]:
    return judged(done for _, done in each(cure, runs(1, ("sick",))))


@pytest.fixture(scope="module")
def checkups() -> list[Checkup]:
    return [done for _, done in each(check_up, runs(1)) if not done.failed]


def test_the_first_remedy_cures(cures: list[Cure]) -> None:
    assert sum(done.first_cures for done in cures) >= CURED * len(cures), "\n".join(uncured(cures))


def test_a_trial_puts_one_first_that_cures(cures: list[Cure]) -> None:
    assert sum(done.pick_cures for done in cures) >= CURED * len(cures), "\n".join(uncured(cures))


@pytest.mark.parametrize("fault", FAULTS)
def test_common_faults_are_found_before_the_first_step(fault: str, checkups: list[Checkup]) -> None:
    sick = [done for done in checkups if done.run.group == "sick" and done.run.case in FAULTS[fault]]
    assert len(sick) == len(FAULTS[fault])
    assert [done.run.case for done in sick if not done.right] == []


def test_healthy_programs_are_left_alone_before_the_first_step(checkups: list[Checkup]) -> None:
    healthy = [done for done in checkups if done.run.group != "sick"]
    assert len(healthy) > 300
    assert {done.run.case: done.said for done in healthy if done.said} == {}
