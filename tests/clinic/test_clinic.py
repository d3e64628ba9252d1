"""The promise, on the clinic: the right cause, in time, and nothing to say of a healthy run. One seed a case."""

from __future__ import annotations

import pytest

from netdoctor import Severity
from netdoctor.rules import ALL
from tests.clinic.catalogue import Run, cases
from tests.clinic.examination import Result, examine
from tests.clinic.pool import each

pytestmark = pytest.mark.slow
RULES = {rule.slug for rule in ALL}
SICK, HEALTHY = cases("sick"), cases("healthy")


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> dict[str, Result]:
    """Of the cases whose tests are to run, all made at once: two processes are faster than one."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    chosen = {str(item.callspec.params["name"]) for item in tests}
    waiting = sum(not RULES.intersection(SICK[name].causes) for name in chosen & SICK.keys())
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{waiting} of {len(chosen & SICK.keys())} sick cases wait for their rules")
    runs = [Run(name, "sick", 0) for name, case in SICK.items() if name in chosen and RULES.intersection(case.causes)]
    runs += [Run(name, "healthy", 0) for name in HEALTHY if name in chosen]
    return {run.case: result for run, result in each(examine, runs)}


@pytest.mark.parametrize("name", SICK)
def test_names_the_cause_in_time(name: str, results: dict[str, Result]) -> None:
    case = SICK[name]
    if name not in results:
        pytest.skip(f"waits for a rule: {', '.join(case.causes)}")
    result = results[name]
    assert not result.failures
    if case.miss:
        assert not (result.right and result.right_layer and result.in_time), f"no longer missed: {case.miss}"
        pytest.skip(case.miss)
    said = [(one.rule, one.severity.name, one.turn, one.layers[:2]) for one in result.said]
    assert result.right, said
    assert result.right_layer, said
    assert result.in_time, said


@pytest.mark.parametrize("name", HEALTHY)
def test_has_nothing_to_say_of_a_healthy_run(name: str, results: dict[str, Result]) -> None:
    result = results[name]
    assert not result.failures
    assert [said.message for said in result.said if said.severity > Severity.NOTE] == []
