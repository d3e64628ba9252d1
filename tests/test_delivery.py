"""Reporters that fail: told once, given everything they missed, and never in the way of the training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import netdoctor
from netdoctor.delivery import Delivery
from netdoctor.findings import Diagnosis, Evidence, Finding, Severity
from netdoctor.history import History
from netdoctor.reopening import reopen
from netdoctor.reporters import Change, Report
from netdoctor.rules.base import rule


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Server:
    """A reporter that is down now and then, and takes ``seconds`` to say so."""

    def __init__(self, clock: Clock | None = None, seconds: float = 0.0) -> None:
        self.down = self.closing_fails = False
        self.clock, self.seconds = clock, seconds
        self.calls = 0
        self.taken: list[Change] = []
        self.closed = 0

    def report(self, report: Report) -> None:
        self._work()
        self.taken += report.changes

    def close(self, report: Report) -> None:
        self.closed += 1
        if self.closing_fails:
            raise OSError("gone")
        self.report(report)

    def _work(self) -> None:
        self.calls += 1
        if self.down:
            if self.clock is not None:
                self.clock.now += self.seconds
            raise ConnectionError("no route to host")


def change(number: int) -> Change:
    return Change("raised", Finding(f"rule-{number}", Severity.WARNING, number, "It is ill."), number)


def report(*numbers: int) -> Report:
    return Report(Diagnosis(max(numbers, default=9)), tuple(map(change, numbers)), (), (), History(), 0.0, 0.0)


def test_everything_missed_comes_with_the_next_report(caplog: pytest.LogCaptureFixture) -> None:
    clock, server = Clock(), Server()
    delivery = Delivery([server], clock)
    delivery.report(report(1))
    server.down = True
    delivery.report(report(2))
    delivery.report(report())
    delivery.report(report(3, 4))
    assert server.taken == [change(1)]
    assert delivery.faults == {"Server": "ConnectionError: no route to host"}
    server.down = False
    clock.now += 60
    delivery.report(report())
    assert server.taken == [change(1), change(2), change(3), change(4)]
    assert delivery.faults == {}
    delivery.report(report(5))
    assert server.taken[4:] == [change(5)]
    assert delivery.close(report()) == ()
    assert [record.getMessage() for record in caplog.records] == [
        "the reporter Server failed and will be given its news again: ConnectionError: no route to host"
    ]


def test_the_next_report_is_the_first_retry() -> None:
    server = Server()
    delivery = Delivery([server], Clock())
    server.down = True
    delivery.report(report(1))
    server.down = False
    delivery.report(report())
    assert server.taken == [change(1)]


def test_other_reporters_do_not_notice() -> None:
    broken, sound = Server(), Server()
    broken.down = True
    delivery = Delivery([broken, sound], Clock())
    for number in range(1, 4):
        delivery.report(report(number))
    assert sound.taken == [change(1), change(2), change(3)]
    assert [loss.count("rule-") for loss in delivery.close(report())] == [3]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 30.0])
def test_a_reporter_that_always_fails_costs_next_to_nothing(seconds: float) -> None:
    """A report a second, for a day."""
    clock = Clock()
    server = Server(clock, seconds)
    server.down = True
    delivery = Delivery([server], clock)
    while clock.now < 86_400:
        delivery.report(report())
        clock.now += 1
    assert 24 <= server.calls <= 24 * 70
    assert server.calls * seconds < 0.011 * 86_400


def test_recovery_makes_it_prompt_again() -> None:
    clock, server = Clock(), Server()
    delivery = Delivery([server], clock)
    for down, minutes in ((True, 20), (False, 2), (True, 0.1), (False, 0)):
        server.down = down
        for _ in range(max(int(minutes * 60), 1)):
            delivery.report(report(1))
            clock.now += 1
    assert server.taken == [change(1)] * len(server.taken)
    assert len(server.taken) >= 20 * 60 + 2 * 60


def test_a_close_that_fails_is_tried_once_more() -> None:
    server = Server()
    server.closing_fails = True
    (loss,) = Delivery([server], Clock()).close(report())
    assert server.closed == 2
    assert loss == "the reporter Server could not be closed (OSError: gone)"


def test_what_close_takes_is_not_lost() -> None:
    class Late(Server):
        def report(self, report: Report) -> None:
            raise OSError("not yet")

        def close(self, report: Report) -> None:
            self.taken += report.changes

    late = Late()
    delivery = Delivery([late], Clock())
    delivery.report(report(1))
    assert delivery.close(report()) == ()
    assert late.taken == [change(1)]


def test_an_interrupt_passes_and_loses_nothing() -> None:
    class Interrupted(Server):
        def _work(self) -> None:
            super()._work()
            if self.calls == 1:
                raise KeyboardInterrupt

    server = Interrupted()
    delivery = Delivery([server], Clock())
    with pytest.raises(KeyboardInterrupt):
        delivery.report(report(1))
    delivery.report(report(2))
    assert server.taken == [change(1), change(2)]


# In a training.


@rule(Severity.WARNING)
def always(history: History) -> Iterator[Evidence]:
    """Always found."""
    yield Evidence("It is ill.")


def train(monitor_of: nn.Module, steps: int = 5) -> None:
    optimizer = torch.optim.SGD(monitor_of.parameters(), 0.1)
    for _ in range(steps):
        monitor_of(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def model() -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def test_a_lost_run_is_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    server = Server()
    server.down = True
    net = model()
    with netdoctor.watch(net, reporters=[server], rules=["non-finite", always]) as monitor:
        train(net)
        assert "the reporter Server failed: ConnectionError: no route to host" in [
            skipped.reason for skipped in monitor.diagnose().skipped
        ]
    (kept,) = tmp_path.iterdir()
    told, lost = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert told.startswith("the reporter Server failed")
    assert lost == (
        "the reporter Server was not told of always and could not be closed (ConnectionError: no route to host); "
        f"the run is kept: netdoctor report {kept}"
    )
    history = History.load(kept)
    assert history == monitor.history
    assert reopen(history).findings == monitor.findings


def test_a_run_that_nothing_can_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)

    def full(self: History, path: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(History, "save", full)
    server = Server()
    server.closing_fails = True
    net = model()
    with netdoctor.watch(net, reporters=[server], rules=[always]):
        train(net)
    assert "the run could not be kept: neither" in caplog.messages[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_step_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = Server()
    server.closing_fails = True
    netdoctor.watch(model(), reporters=[server]).close()
    assert list(tmp_path.iterdir()) == []
