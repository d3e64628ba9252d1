"""What netdoctor writes to W&B, read back from real offline runs, and that it leaves the program's own rows alone."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import wandb

import netdoctor
import netdoctor_wandb
from netdoctor.history import History
from netdoctor.reporters.digest import FINDING_COLUMNS
from netdoctor_wandb import WandbReporter, session
from tests.reports import NON_FINITE, POOR, Loop, Tanh, deep_history, report_of
from tests.wandb_records import Records, records

ROOT = Path(__file__).parents[1]
STEPS = 20  # netdoctor reports after each of them


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "PROJECT": "test"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield
    wandb.teardown()  # else the next test would not look at the environment


def explicit(run: Any, step: int, loss: float) -> None:
    run.log({"loss": loss}, step=step)


def implicit(run: Any, step: int, loss: float) -> None:
    run.log({"loss": loss})


def epochs(run: Any, step: int, loss: float) -> None:
    if step % 10 == 9:
        run.log({"loss": loss}, step=step // 10)


def jumps(run: Any, step: int, loss: float) -> None:
    run.log({"loss": loss, "step": step}, step=100 * step)


def parts(run: Any, step: int, loss: float) -> None:
    run.log({"first": loss}, commit=False)
    run.log({"loss": loss})


def own_axis(run: Any, step: int, loss: float) -> None:
    if not step:
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)  # as Lightning and transformers do
    if step % 4 == 3:
        run.log({"loss": loss, "trainer/global_step": step})


def never(run: Any, step: int, loss: float) -> None:
    pass


Habit = Callable[[Any, int, float], None]
HABITS: tuple[Habit, ...] = (explicit, implicit, epochs, jumps, parts, own_axis, never)


def train(habit: Habit, root: Path, reporters: list[Any], **watching: Any) -> Records:
    """A training that logs in its way, and a test result after netdoctor closed; the run as it was written."""
    loop = Loop()
    run = wandb.init(dir=root)
    with netdoctor.watch(loop.model, reporters=reporters, **watching):
        for step in range(STEPS):
            habit(run, step, loop.step())
    if habit is epochs:
        run.log({"test": 0.5}, step=STEPS // 10)
    elif habit is not never:
        run.log({"test": 0.5})
    run.finish()
    return records(root)


def own(run: Records) -> list[tuple[int, dict[str, Any]]]:
    """Step and content of the rows that the program logged."""
    rows = [(row["_step"], {k: v for k, v in row.items() if k[0] != "_" and "netdoctor" not in k}) for row in run.rows]
    return [(step, content) for step, content in rows if content]


@pytest.mark.parametrize("habit", HABITS)
def test_the_rows_of_the_program_stay(habit: Habit, tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    shown = train(habit, tmp_path / "with", ["wandb"], every=1)
    assert own(shown) == own(train(habit, tmp_path / "without", []))

    steps = [step for (step,) in shown.of("netdoctor/step")]
    assert steps == sorted(steps)
    gradients = shown.of("netdoctor/step", "netdoctor/gradient_norm", "netdoctor/gradient_rms/layers.0")
    least: dict[Habit, int] = {
        explicit: STEPS - 1,
        implicit: STEPS - 1,
        epochs: 1,
        jumps: STEPS - 1,
        parts: STEPS - 1,
        own_axis: 5,
    }
    assert len(gradients) >= least.get(habit, STEPS)  # netdoctor gets as many points as the program has rows
    assert all(norm > rms > 0 for _, norm, rms in gradients)
    for key in ("findings", "layers"):
        assert shown.of(f"netdoctor/{key}")


def test_values_are_those_of_the_history(tmp_path: Path) -> None:
    loop = Loop()
    run = wandb.init()
    with netdoctor.watch(loop.model, reporters=["wandb"], every=1) as monitor:
        for _ in range(STEPS):
            run.log({"loss": loop.step()})
    run.finish()
    history, shown = monitor.history, records(tmp_path)
    for key, statistic, column in (
        ("gradient_norm", "gradient_norm", ""),
        ("activation_rms/layers.3", "activation_rms", "layers.3"),
        ("update_ratio/head", "update_ratio", "head.weight"),
    ):
        expected = dict(zip(*(each.tolist() for each in history.series(statistic, column)), strict=True))
        points = shown.of("netdoctor/step", f"netdoctor/{key}")
        assert len(points) >= STEPS - 1
        assert points == [(step, expected[step]) for step, _ in points]


def test_each_key_has_our_axis(tmp_path: Path) -> None:
    shown = train(own_axis, tmp_path, ["wandb"], every=1)
    keys = {key for row in shown.rows for key in row if key.startswith("netdoctor/")}
    layered = {key for key in keys if key.split("/")[1] in session.OF_LAYERS}
    assert len(layered) == 39  # ten layers, three statistics; nine are saturated, none has a ReLU
    assert "netdoctor/gradient_norm" in keys
    for key in keys:
        metric = shown.metrics[key.replace(".", "\\.")]
        assert metric.step_metric == ("" if key == "netdoctor/step" else "netdoctor/step")
        assert metric.options.hidden == (key in layered or key == "netdoctor/step")
        media = ("netdoctor/findings", "netdoctor/layers", "netdoctor/report")
        assert metric.summary.none == (key not in ("netdoctor/step", *media))
    assert not layered & set(shown.summary)


def test_alerts_table_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = wandb.init()
    reporter = WandbReporter()
    reporter.report(report_of())
    reporter.report(report_of(POOR))
    run.log({"loss": 1.0})
    for _ in range(3):
        reporter.report(report_of(POOR, NON_FINITE))
        run.log({"loss": 0.9})
    reporter.report(report_of(POOR, replace(NON_FINITE, message="worse"), resolved=(POOR,)))
    run.log({"loss": 0.8})
    monkeypatch.setitem(sys.modules, "netdoctor.reporters.html", None)
    reporter.close(report_of(POOR, replace(NON_FINITE, message="worse"), resolved=(POOR,)))
    run.finish()
    shown = records(tmp_path)
    assert [title for title, _ in shown.alerts] == ["netdoctor: non-finite"]
    assert NON_FINITE.message in shown.alerts[0][1]
    assert [rows["nrows"] for (rows,) in shown.of("netdoctor/findings")] == [1, 2, 2]  # one for each piece of news
    tables = sorted((shown.files / "media" / "table").rglob("findings*.json"), key=os.path.getmtime)
    assert '"resolved"' in tables[-1].read_text()
    assert '"state"' in tables[-1].read_text()
    assert FINDING_COLUMNS[-1] == "state"
    health = {"errors": 1, "warnings": 0, "notes": 0, "resolved": 1, "severity": 30, "worst": "non-finite"}
    assert {name: shown.summary[f"netdoctor/{name}"] for name in health} == health
    assert "netdoctor/report" not in shown.summary


def test_the_html_report_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Html:
        @staticmethod
        def render(report: Any) -> str:
            return f"<p>{len(report.findings)} findings</p>"

    monkeypatch.setitem(sys.modules, "netdoctor.reporters.html", Html)
    train(implicit, tmp_path, ["wandb"])
    (page,) = tmp_path.rglob("report_*.html")
    assert page.read_text() == "<p>1 findings</p>"
    pages = list(tmp_path.rglob("layers_*.html"))
    assert len(pages) == 1
    assert "<h2>Gradient scale" in pages[0].read_text()


def test_keys_of_a_deep_model_are_bounded(tmp_path: Path) -> None:
    run = wandb.init()
    reporter = WandbReporter()
    reporter.report(report_of(history=deep_history(layers=500, steps=15)))
    run.log({"loss": 1.0})
    run.finish()
    (row,) = records(tmp_path).rows[:1]
    layers = [key.removeprefix("netdoctor/gradient_rms/") for key in row if "gradient_rms" in key]
    assert 140 < len([key for key in row if "netdoctor" in key]) <= 202  # the step and the heat maps beside
    assert {"fc.0", "fc.499"} < set(layers)


class Run:
    """Stands in for a run where only the calls count."""

    disabled = False
    resumed = False
    step = 0

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self._teardown_hooks: list[Any] = []

    def log(self, data: dict[str, Any], commit: bool) -> None:
        self.calls.append(data | {"commit": commit})

    def define_metric(self, name: str, **options: Any) -> None: ...

    def alert(self, title: str, text: str, level: str) -> None: ...


def test_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("netdoctor.reporters.throttle.monotonic", lambda: now[0])
    run: Any = Run()
    history = History()
    reporter = WandbReporter(run, seconds=10)
    for step in range(1, 10_001):
        now[0] += 0.1
        history.record(step, "loss", [1.0])
        before = len(run.calls)
        reporter.report(report_of(POOR, history=history))
        assert len(run.calls) <= before + 1
    assert 100 <= len(run.calls) <= 50 + 10_000 * 0.1 / 10 + 40
    pages = [call["netdoctor/step"] for call in run.calls if "netdoctor/layers" in call]
    assert len(pages) <= 10
    assert all(later >= 1.5 * earlier for earlier, later in pairwise(pages))
    assert sum("netdoctor/findings" in call for call in run.calls) == 1
    assert not any(call["commit"] for call in run.calls)


def test_rows_of_its_own(tmp_path: Path) -> None:
    shown = train(never, tmp_path, [WandbReporter(commit=True)], every=1)
    assert [step for (step,) in shown.of("netdoctor/step")] == [*range(1, STEPS + 1), STEPS]


def test_a_resumed_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = Run()
    run.resumed, run.step = True, 57
    run.summary["netdoctor/step"] = 1000
    reporter = WandbReporter(run)
    reporter.report(report_of(history=deep_history(steps=3)))
    assert run.calls[0]["netdoctor/step"] == 1003
    assert not run.calls[0]["commit"]


def test_no_run_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    with caplog.at_level(logging.WARNING, "netdoctor"), netdoctor.watch(loop.model, reporters=["wandb"]):
        for _ in range(3):
            loop.step()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "wandb.init()" in message


def test_a_run_that_begins_later(tmp_path: Path) -> None:
    loop = Loop()
    with netdoctor.watch(loop.model, reporters=["wandb"]):
        for _ in range(3):
            loop.step()
        with wandb.init() as run:  # ends before the monitor closes
            for _ in range(3):
                run.log({"loss": loop.step()})
        for _ in range(3):
            loop.step()
    shown = records(tmp_path)
    assert len(own(shown)) == 3
    assert shown.summary["netdoctor/worst"] == "poor-initialization"
    assert shown.rows[-1]["netdoctor/step"] == 6
    assert "netdoctor/layers" in shown.rows[-1]
    assert shown.of("netdoctor/findings")


def test_runs_one_after_the_other(tmp_path: Path) -> None:
    loop = Loop()
    with netdoctor.watch(loop.model, reporters=["wandb"], every=1):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            with wandb.init(dir=tmp_path / name) as run:
                for _ in range(3):
                    run.log({"loss": loop.step()})
    for name, steps in (("a", [1, 2, 3]), ("b", [4, 5, 6])):
        shown = records(tmp_path / name)
        assert sorted({step for (step,) in shown.of("netdoctor/step")}) == steps
        assert shown.of("netdoctor/findings")


def test_disabled(tmp_path: Path) -> None:
    loop = Loop()
    with netdoctor.watch(loop.model, reporters=["wandb"]), wandb.init(mode="disabled") as run:
        run.log({"loss": loop.step()})
    assert not list(tmp_path.glob("wandb/*run-*"))


def test_a_run_that_is_over_takes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    run = wandb.init()
    with netdoctor.watch(loop.model, reporters=[WandbReporter(run)]):
        run.log({"loss": loop.step()})
        run.finish()
        loop.step()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("first", "ending"), [("init", ""), ("watch", "1 / 0")])
def test_a_program_that_closes_nothing(first: str, ending: str, tmp_path: Path) -> None:
    lines = ["run = wandb.init()", "netdoctor.watch(loop.model, reporters=['wandb'], every=1)"]
    script = [
        "import netdoctor, wandb",
        "from tests.reports import Loop",
        "loop = Loop()",
        *(lines if first == "init" else lines[::-1]),
        "for step in range(12): loop.step()",
        ending,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "integrations")))
    program = [sys.executable, "-c", "\n".join(script)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == bool(ending)
    shown = records(tmp_path)
    steps = [step for (step,) in shown.of("netdoctor/step")]
    assert steps == [*range(1, 13), 12]
    assert "netdoctor/layers" in shown.rows[-1]
    assert shown.summary["netdoctor/worst"] == "poor-initialization"
    assert "failed" not in done.stderr


def test_a_network_that_fails_stays_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)  # where the run is kept that could not be sent
    run: Any = Run()
    loop = Loop(Tanh(std=0.1))
    monkeypatch.setattr(run, "log", lambda *_, **__: 1 / 0)
    with netdoctor.watch(loop.model, reporters=[WandbReporter(run)]):
        for _ in range(3):
            loop.step()
    run._teardown_hooks[0].call()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3  # it fails, closing too; what is lost


def test_the_workspace() -> None:
    workspace = netdoctor_wandb.build_workspace("me", "mine")
    view = workspace._to_model().model_dump(by_alias=True)
    section = view["spec"]["section"]
    panels = {p["viewType"]: p for s in section["panelBankConfig"]["sections"] for p in s["panels"]}
    plots = [
        panel["config"]
        for each in section["panelBankConfig"]["sections"]
        for panel in each["panels"]
        if panel["viewType"] == "Run History Line Plot"
    ]
    assert (view["entity"], view["project"], view["displayName"]) == ("me", "mine", "netdoctor")
    assert {plot["xAxis"] for plot in plots} == {"netdoctor/step"}
    assert "^netdoctor/gradient_rms/.*" in [plot["metricRegex"] for plot in plots]
    assert all(plot["useMetricRegex"] for plot in plots)
    assert len(plots) <= 12
    assert {"Weave", "Media Browser"} < set(panels)
    assert "netdoctor/findings" in str(panels["Weave"])
    (runs,) = section["runSets"]
    assert runs["sort"]["keys"][0] == {"key": {"section": "summary", "name": "netdoctor/severity"}, "ascending": False}
    assert "summary:netdoctor/worst" in str(runs)
    again = type(workspace)._from_model(workspace._to_model())
    assert [each.name for each in again.sections] == ["Findings", "Layers", "Run"]


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="create_works"):
        _ = netdoctor_wandb.create_works
