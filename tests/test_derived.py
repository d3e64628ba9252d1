"""What a history remembers of itself: never out of date, and not worked out again without need."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import netdoctor
from netdoctor import History
from netdoctor.derived import derived
from netdoctor.diagnose import diagnose
from netdoctor.facts import Facts
from netdoctor.gains import highest_rates
from netdoctor.progress import weight_updates


def counted(asked: list[str]):
    @derived
    def start(history: History) -> float:
        asked.append("start")
        return history.first("loss")[""]

    @derived
    def fall(history: History) -> float:
        asked.append("fall")
        return start(history) - history.latest("loss")[""]

    return start, fall


def test_an_answer_is_worked_out_again_only_where_what_it_rests_on_has_changed():
    asked: list[str] = []
    start, fall = counted(asked)
    history = History.of(loss=[4.0, 3.0])
    assert (start(history), fall(history), fall(history)) == (4.0, 1.0, 1.0)
    history.record(3, "weight_rms", [1.0], ("fc.weight",))
    assert (start(history), fall(history)) == (4.0, 1.0)
    assert asked == ["start", "fall"]
    history.record(3, "loss", [1.0])
    assert (start(history), fall(history)) == (4.0, 3.0)
    assert asked == ["start", "fall", "fall"]
    history.facts = Facts(batch=8)
    assert fall(history) == 3.0
    assert asked == ["start", "fall", "fall", "fall", "start"]


def test_the_first_reading_of_a_step_that_is_recorded_again_is_the_later_one():
    start, _ = counted([])
    history = History.of(loss=[4.0])
    assert start(history) == 4.0
    history.record(1, "loss", [5.0])
    assert start(history) == 5.0


def test_an_answer_that_failed_is_asked_for_again():
    @derived
    def failing(history: History) -> float:
        return history.first("loss")[""]

    history = History()
    with pytest.raises(KeyError):
        failing(history)
    history.record(1, "loss", [2.0])
    assert failing(history) == 2.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(1, 700))
def test_what_is_worked_out_row_by_row_is_that_of_all_rows(parts, width):
    """Whatever was asked for in between, over tables that are thinned and columns that come later."""
    rng = np.random.default_rng(width)
    names = [f"{i}.weight" for i in range(width)]
    history, step = History(), 0
    for count in parts:
        steps = range(step + 1, step + count + 1)
        rates = rng.random((count, 2), np.float32)
        updates = rng.random((count, width), np.float32)
        updates[rng.random(updates.shape) < 0.1] = np.nan
        history.record_rows(steps, "learning_rate", rates, ("0", "1"))
        history.record_rows(steps, "update_ratio", updates, names)
        step += count
        fresh = History.from_bytes(history.to_bytes())
        np.testing.assert_array_equal(highest_rates(history), highest_rates(fresh))
        for known, anew in zip(weight_updates(history), weight_updates(fresh), strict=True):
            np.testing.assert_array_equal(known, anew)
        history.record(step, "update_ratio", rng.random(width), names)  # the last step, again
        names.append(f"{len(names)}.weight")
        width += 1


def test_the_diagnosis_of_a_run_that_goes_on_is_that_of_its_saved_history():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(6)), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    x, y = torch.randn(64, 16), torch.randint(0, 4, (64,))
    found = 0
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        for step in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step % 5 == 0:
                verdict = diagnose(monitor.history)
                anew = diagnose(History.from_bytes(monitor.history.to_bytes()))
                assert [str(f) for f in verdict.findings] == [str(f) for f in anew.findings]
                assert verdict.skipped == anew.skipped
                found += len(verdict.findings)
    assert found
