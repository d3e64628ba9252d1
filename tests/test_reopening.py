"""A saved history gives the findings that were active at the end of the run, as they were raised."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.casebook import Casebook
from netdoctor.findings import Finding, Reading, Remedy, Severity
from netdoctor.history import History, HistoryError
from netdoctor.reopening import reopen
from netdoctor.rules import ALL

FULL = Finding(
    "dead-units",
    Severity.ERROR,
    12,
    "97 % of the units of fc1 are silent.",
    ("fc1", ""),
    (Reading("dead share", 0.97, 0.4, "", (2, 12)), Reading("rms", math.inf, None, "m", (0, 0))),
    0.75,
    (Remedy("Lower the learning rate", "lr = 1e-3", "He 2015", "It learns."),),
    (Finding("loss-plateau", Severity.NOTE, 80, "Flat."),),
)


def test_a_finding_comes_back_from_json() -> None:
    text = json.dumps(FULL.to_dict(), allow_nan=False)
    assert Finding.from_dict(json.loads(text)) == FULL


def test_a_treatment_does_not() -> None:
    remedy = dataclasses.replace(FULL.remedies[0], treatment=lambda model, optimizer: None)
    back = Finding.from_dict(dataclasses.replace(FULL, remedies=(remedy,)).to_dict())
    assert back == FULL
    assert not back.remedies[0].applicable


def tanh(std: float, depth: int = 6) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    for _ in range(depth):
        model.extend([nn.Linear(32, 32), nn.Tanh()])
    model.append(nn.Linear(32, 4))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def poorly_started(monitor: netdoctor.Monitor, model: nn.Module) -> None:
    train(model, torch.optim.Adam(model.parameters(), 1e-3), 60)


def cured(monitor: netdoctor.Monitor, model: nn.Module) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    train(model, optimizer, 20)
    for remedy in monitor.findings[0].remedies[:1]:
        remedy.apply(model, optimizer)
    train(model, optimizer, 100)


def hot(monitor: netdoctor.Monitor, model: nn.Module) -> None:
    train(model, torch.optim.SGD(model.parameters(), 30.0), 150)


def half_held(monitor: netdoctor.Monitor, model: nn.Module) -> None:
    train(model, torch.optim.SGD([*model.parameters()][4:], 0.1), 80)


def spoiled(monitor: netdoctor.Monitor, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(model, optimizer, 30)
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    train(model, optimizer, 5)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 32, generator=generator)
    y = (x[:, :4]).argmax(1)
    for _ in range(steps):
        batch = torch.randint(0, 256, (32,), generator=generator)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


RUNS: dict[str, tuple[Callable[[], nn.Module], Callable[[netdoctor.Monitor, nn.Module], None]]] = {
    "poorly started": (lambda: tanh(0.01), poorly_started),
    "cured on the way": (lambda: tanh(0.01), cured),
    "too hot": (lambda: tanh(0.2), hot),
    "half held": (lambda: tanh(0.2), half_held),
    "spoiled": (lambda: tanh(0.2), spoiled),
    "sound": (lambda: tanh(0.2), poorly_started),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_findings_of_a_run_are_those_of_its_file(name: str, tmp_path: Path) -> None:
    make, go = RUNS[name]
    model = make()
    with netdoctor.watch(model, reporters=[]) as monitor:
        go(monitor, model)
        monitor.diagnose()
    assert bool(monitor.findings) == (name != "sound")
    monitor.history.save(tmp_path / "run.npz")
    report = reopen(History.load(tmp_path / "run.npz"))
    assert report.findings == monitor.findings
    assert report.changes == ()
    assert report.resolved == monitor._casebook.resolved
    assert report.diagnosis == monitor.diagnose()
    assert (report.overhead, report.seconds) == (monitor.overhead, monitor._schedule.spent)


def test_rules_that_were_left_out_or_tuned_stay_so(tmp_path: Path) -> None:
    model = tanh(0.01)
    slugs = [rule.slug for rule in ALL if rule.slug != "poor-initialization"]
    (rule,) = (rule for rule in ALL if rule.slug == "not-learning")
    threshold = next(iter(rule.judge.__kwdefaults__ or {}))
    tuned = rule.tuned(**{threshold: 10**6})
    chosen = [slug for slug in slugs if slug != "not-learning"]
    with netdoctor.watch(model, reporters=[], rules=[*chosen, tuned]) as monitor:
        poorly_started(monitor, model)
    monitor.history.save(tmp_path / "run.npz")
    history = History.load(tmp_path / "run.npz")
    assert history.context["ignored"] == ["poor-initialization"]
    assert history.context["thresholds"] == {"not-learning": {threshold: 10**6}}
    assert reopen(history).findings == monitor.findings


def test_a_threshold_that_is_gone_is_forgotten() -> None:
    history = History.of(loss=[2.0] * 50)
    history.context = {"thresholds": {"not-learning": {"no_more": 1}}}
    assert reopen(history).diagnosis.step == 50


def test_a_file_without_a_context_is_judged_anew(tmp_path: Path) -> None:
    model = tanh(0.01)
    with netdoctor.watch(model, reporters=[]) as monitor:
        poorly_started(monitor, model)
    history = monitor.history
    history.context = {}
    report = reopen(history)
    assert [finding.rule for finding in report.findings] == [finding.rule for finding in monitor.findings]
    assert [change.kind for change in report.changes] == ["raised"] * len(report.findings)


@pytest.mark.parametrize(
    "context",
    [
        {"cases": 3},
        {"cases": [{}]},
        {"cases": [{"finding": {**FULL.to_dict(), "severity": "BAD"}, "explains": [], "resolved": False}]},
        {"thresholds": []},
        {"step": "many"},
        {"faults": 3},
    ],
)
def test_a_damaged_context_is_told(context: dict[str, object]) -> None:
    history = History.of(loss=[1.0])
    history.context = context
    with pytest.raises(HistoryError, match="cannot be read"):
        reopen(history)


def test_numbers_of_numpy_can_be_saved(tmp_path: Path) -> None:
    history = History.of(loss=[1.0])
    history.context = {"thresholds": {"x": {"a": np.float32(0.5), "b": np.int64(3), "c": {1}}}}
    history.save(tmp_path / "run.npz")
    assert History.load(tmp_path / "run.npz").context == {"thresholds": {"x": {"a": 0.5, "b": 3, "c": "{1}"}}}


def test_the_order_and_state_of_cases_are_kept() -> None:
    book = Casebook()
    diagnosis = netdoctor.Diagnosis(1, (FULL, Finding("overfitting", Severity.WARNING, 1, "It overfits.")))
    book.update(diagnosis)
    for step in range(2, 6):
        book.update(netdoctor.Diagnosis(step, diagnosis.findings[:1]))
    back = Casebook.from_list(json.loads(json.dumps(book.to_list())))
    assert (back.findings, back.resolved, back.active) == (book.findings, book.resolved, book.active)
    again = netdoctor.Diagnosis(9, diagnosis.findings)
    assert back.update(again) == book.update(again)
