"""The schedule keeps to its budget whatever a step and a sample cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdoctor.probes.schedule import DENSE_STEPS, STARTUP_SECONDS, Schedule


def run(schedule: Schedule, steps: int, step_seconds: float, sample_seconds: float) -> list[int]:
    """Steps that were sampled in a simulated training."""
    sampled, now = [], 100.0
    schedule.clock = lambda: now
    schedule.tick(0.0)
    for step in range(1, steps + 1):
        own = 0.0
        if step >= schedule.sampling.next:
            own = sample_seconds
            sampled.append(step)
        now += step_seconds + own
        cost = schedule.tick(own, sampled=own > 0)
        if own:
            schedule.sampling.done(step, cost, schedule.step_seconds)
    return sampled


def test_the_first_steps_are_all_sampled():
    sampled = run(Schedule(0.01, None), 60, 0.1, 0.001)
    assert sampled[:DENSE_STEPS] == list(range(1, DENSE_STEPS + 1))


def test_an_expensive_start_is_cut_short():
    sampled = run(Schedule(0.01, None), 30, 1.0, 0.9)
    assert len(sampled) == 3  # the third sample passes two seconds
    assert STARTUP_SECONDS == 2.0


@given(
    st.floats(1e-4, 2.0),
    st.floats(1e-5, 0.5),
    st.sampled_from([0.001, 0.01, 0.1]),
)
def test_after_the_start_the_share_stays_below_the_budget(step_seconds, sample_seconds, budget):
    schedule = Schedule(budget, None)
    steps = 3000
    late = [step for step in run(schedule, steps, step_seconds, sample_seconds) if step > 50]
    # The sample at the end of the start is paid from the start's allowance.
    assert max(len(late) - 1, 0) * sample_seconds <= budget * steps * step_seconds


def test_a_fixed_interval_is_kept():
    assert run(Schedule(0.01, 7), 30, 0.1, 0.05) == [1, 8, 15, 22, 29]


def test_a_validation_pass_between_steps_does_not_change_the_step_time():
    schedule = Schedule(0.01, None)
    now = 0.0
    schedule.clock = lambda: now
    for step in range(1, 40):
        now += 0.1 + (30.0 if step % 20 == 0 else 0.0)
        schedule.tick(0.0)
    assert schedule.step_seconds == pytest.approx(0.1)


def test_a_stretch_of_steps_counts_as_their_mean():
    schedule = Schedule(0.01, None)
    times = iter((1.0, 1.1, 6.1))
    schedule.clock = lambda: next(times)
    for steps in (1, 1, 50):
        schedule.tick(0.0, steps)
    assert schedule.step_seconds == pytest.approx(0.1)
    assert schedule.seconds == pytest.approx(5.1)


def test_what_the_host_does_not_see_of_a_sample_counts_too():
    """Work on a device, spoiled caches: the sampled step takes longer than netdoctor's own time on the host."""
    schedule = Schedule(0.01, None)
    now = 0.0
    schedule.clock = lambda: now
    costs = []
    for step in range(60):
        sampled = step % 10 == 9
        now += 0.15 if sampled else 0.1
        cost = schedule.tick(0.01 if sampled else 0.0, sampled=sampled)
        costs += [cost] if sampled else []
    assert costs == pytest.approx([0.05] * 6)
    assert schedule.step_seconds == pytest.approx(0.1)


def test_one_hiccup_is_not_the_price_of_a_sample():
    schedule = Schedule(0.01, None)
    for step in range(100, 109):
        schedule.sampling.done(step, 0.01 if step != 104 else 5.0, 1.0)
    assert schedule.sampling.spent == pytest.approx(0.01 * 8 + 0.03)


def test_overhead_is_the_share_of_the_time():
    schedule = Schedule(0.01, 1)
    run(schedule, 100, 0.09, 0.01)
    assert schedule.overhead == pytest.approx(0.1, rel=0.02)


def test_stopped_is_for_good():
    schedule = Schedule(0.01, None)
    schedule.sampling.stop()
    assert run(schedule, 50, 0.1, 0.001) == []
