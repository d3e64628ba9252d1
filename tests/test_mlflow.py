"""What netdoctor logs to MLflow, read back with its client."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

import netdoctor
from netdoctor.history import History
from netdoctor_mlflow import MLflowReporter
from tests.reports import NON_FINITE, POOR, Loop, deep_history, report_of


class Html:
    @staticmethod
    def render(report: Any) -> str:
        return "<p>report</p>"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(autouse=True)
def store(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(database)
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    mlflow.set_tracking_uri(f"sqlite:///{database / 'mlflow.db'}")
    yield
    mlflow.end_run()


def points(run_id: str, key: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient().get_metric_history(run_id, f"netdoctor/{key}")
    return sorted((point.step, point.value) for point in history)


def artifact(run_id: str, name: str) -> str:
    path = mlflow.MlflowClient().download_artifacts(run_id, f"netdoctor/{name}")
    return Path(path).read_text(encoding="utf-8")


def test_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netdoctor.reporters.html", Html)
    loop = Loop()
    with mlflow.start_run() as run, netdoctor.watch(loop.model, reporters=["mlflow"], every=1) as monitor:
        for step in range(20):
            mlflow.log_metric("loss", loop.step(), step=step)
    identity = run.info.run_id
    for key, statistic, column in (
        ("gradient_norm", "gradient_norm", ""),
        ("activation_rms/layers.0", "activation_rms", "layers.0"),
        ("update_ratio/head", "update_ratio", "head.weight"),
    ):
        steps, values = monitor.history.series(statistic, column)
        assert len(steps) == 20
        shown = points(identity, key)
        assert [step for step, _ in shown] == steps.tolist()
        assert [value for _, value in shown] == pytest.approx(values.tolist())
    read = mlflow.get_run(identity)
    assert read.data.tags["netdoctor.worst"] == "poor-initialization"
    assert read.data.metrics["netdoctor/errors"] == 1
    assert read.data.metrics["netdoctor/warnings"] == 0
    found = mlflow.MlflowClient().search_runs([read.info.experiment_id], 'metrics."netdoctor/errors" > 0')
    assert [each.info.run_id for each in found] == [identity]
    table = json.loads(artifact(identity, "findings.json"))
    assert dict(zip(table["columns"], table["data"][0], strict=True))["rule"] == "poor-initialization"
    assert "| poor-initialization |" in artifact(identity, "findings.md")
    assert "<h2>Update ratio" in artifact(identity, "layers.html")
    assert artifact(identity, "report.html") == "<p>report</p>"


def test_a_run_that_is_given_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netdoctor.reporters.html", None)
    with mlflow.start_run() as run:
        pass
    identity = run.info.run_id
    reporter = MLflowReporter(identity)
    reporter.report(report_of(POOR, history=deep_history(steps=3)))
    reporter.close(report_of(POOR, NON_FINITE, resolved=(POOR,), history=deep_history(steps=4)))
    assert [step for step, _ in points(identity, "dead_share/fc.0")] == []
    assert [step for step, _ in points(identity, "gradient_rms/fc.5")] == [1, 2, 3, 4]
    assert mlflow.get_run(identity).data.tags["netdoctor.worst"] == "non-finite"
    assert [row[-1] for row in json.loads(artifact(identity, "findings.json"))["data"]] == ["resolved", "active"]
    assert mlflow.active_run() is None


def test_no_run_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    with caplog.at_level(logging.WARNING, "netdoctor"), netdoctor.watch(loop.model, reporters=["mlflow"]):
        for _ in range(3):
            loop.step()
    (message,) = [record.getMessage() for record in caplog.records if record.name == "netdoctor"]
    assert "mlflow.start_run()" in message
    assert mlflow.active_run() is None


class Client:
    """Stands in for MLflow's where only the calls count."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.texts: list[str] = []

    def log_batch(self, run_id: str, metrics: list[Any], tags: Any = (), synchronous: bool = True) -> Any:
        self.batches.append(list(metrics))
        return self

    def wait(self) -> None: ...

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self.texts.append(name)

    def log_dict(self, run_id: str, table: Any, name: str) -> None:
        self.texts.append(name)


def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("netdoctor.reporters.throttle.monotonic", lambda: now[0])
    client, history = Client(), History()
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: client)
    reporter = MLflowReporter("run", seconds=10)
    for step in range(1, 5001):
        now[0] += 0.1
        history.record(step, "loss", [1.0])
        if step % 7 == 0:
            reporter.report(report_of(POOR, history=history))
    assert 50 < len(client.batches) <= 50 + 5000 * 0.1 / 10 + 2
    assert all(len(batch) <= 1000 for batch in client.batches)
    assert client.texts.count("netdoctor/findings.md") == 1
    assert client.texts.count("netdoctor/layers.html") <= 8
