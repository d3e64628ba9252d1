"""The JSON lines of a run, and findings as plain values."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netdoctor import watch
from netdoctor.findings import Diagnosis, Finding, Reading, Severity, Skipped
from netdoctor.reporters import Change
from netdoctor.reporters.jsonl import JsonLines
from tests.reports import NON_FINITE, PLATEAU, POOR, Loop, report_of

ROOT = Path(__file__).parents[1]
COMMON = ["version", "run", "time", "step", "event"]


def lines(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_a_finding_as_plain_values():
    symptom = Finding("dead-units", Severity.NOTE, np.int64(3), "dead", readings=(Reading("x", math.inf, math.nan),))
    finding = Finding(
        "non-finite",
        Severity.ERROR,
        12,
        "NaN",
        ("fc",),
        (Reading("loss", np.float32(-np.inf), None, "loss", (np.int64(1), 12)), Reading("gain", np.float32(0.5), 1)),
        np.float32(0.5),
        POOR.remedies,
        (symptom,),
    )
    given = finding.to_dict()
    assert json.loads(json.dumps(given, allow_nan=False)) == given
    assert given["severity"] == "ERROR"
    assert given["readings"] == [
        {"name": "loss", "value": "-Infinity", "bound": None, "unit": "loss", "steps": [1, 12]},
        {"name": "gain", "value": 0.5, "bound": 1.0, "unit": "", "steps": [0, 0]},
    ]
    assert float(given["readings"][0]["value"]) == -math.inf
    assert given["symptoms"][0]["readings"][0] | {"name": ""} == {
        "name": "", "value": "Infinity", "bound": "NaN", "unit": "", "steps": [0, 0],
    }  # fmt: skip
    assert given["remedies"][0] == {
        "action": "Initialise with Xavier",
        "code": "nn.init.xavier_normal_(model.fc[0].weight)",
        "source": "",
        "effect": "",
        "applicable": True,
        "restart": False,
        "unbounded": False,
    }


def test_a_diagnosis_as_plain_values():
    diagnosis = Diagnosis(7, (POOR,), (Skipped("too early", "overfitting"),))
    assert json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False)) == {
        "step": 7,
        "healthy": False,
        "findings": [POOR.to_dict()],
        "skipped": [{"rule": "overfitting", "reason": "too early"}],
    }


def test_a_line_for_each_piece_of_news(tmp_path: Path):
    path = tmp_path / "run.jsonl"
    reporter = JsonLines(path)
    reporter.report(report_of())
    reporter.report(report_of(POOR, changes=(Change("raised", POOR, 1),)))
    reporter.report(report_of(POOR, NON_FINITE, changes=(Change("raised", NON_FINITE, 2), Change("resolved", POOR, 1))))
    reporter.close(report_of(POOR, NON_FINITE, resolved=(POOR,), skipped=(Skipped("too early", "overfitting"),)))
    written = lines(path.read_text(encoding="utf-8"))
    assert [(line["event"], line.get("number")) for line in written] == [
        ("started", None), ("raised", 1), ("raised", 2), ("resolved", 1), ("ended", None),
    ]  # fmt: skip
    assert all(list(line)[:5] == COMMON and line["version"] == 1 and line["step"] == 30 for line in written)
    assert len({line["run"] for line in written}) == 1
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in written)
    assert written[0]["model"] == "Deep"
    assert written[1]["finding"] == POOR.to_dict()
    assert {key: written[-1][key] for key in list(written[-1])[5:]} == {
        "healthy": False, "active": [2], "errors": 1, "warnings": 0, "notes": 0, "resolved": 1,
        "skipped": [{"rule": "overfitting", "reason": "too early"}],
    }  # fmt: skip


def test_every_field_is_documented(tmp_path: Path):
    path = tmp_path / "run.jsonl"
    reporter = JsonLines(path)
    reporter.report(report_of(POOR, changes=(Change("raised", POOR, 1),)))
    reporter.close(report_of(POOR, PLATEAU))
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "jsonl.md").read_text(encoding="utf-8")))
    for line in lines(path.read_text(encoding="utf-8")):
        finding = line.get("finding", {"remedies": [{}], "readings": [{}]})
        assert {*line, *finding, *finding["remedies"][0], *finding["readings"][0]} <= named
        assert line["event"] in named


def test_runs_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        loop = Loop()
        with watch(loop.model, reporters=["jsonl"]) as monitor:
            for _ in range(3):
                loop.step()
    written = lines((tmp_path / "netdoctor.jsonl").read_text(encoding="utf-8"))
    runs = [line["run"] for line in written]
    assert runs[0] != runs[-1]
    last = [line for line in written if line["run"] == runs[-1]]
    assert [line["event"] for line in last] == ["started", *["raised"] * len(monitor.findings), "ended"]
    assert [line["finding"] for line in last[1:-1]] == [finding.to_dict() for finding in monitor.findings]
    assert monitor.findings
    assert monitor.findings[0].rule == "poor-initialization"


def test_the_path_is_that_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    reporter = JsonLines("run.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    reporter.close(report_of())
    assert (tmp_path / "run.jsonl").exists()


def test_an_open_file_stays_open():
    stream = io.StringIO()
    JsonLines(stream).close(report_of())
    assert [line["event"] for line in lines(stream.getvalue())] == ["started", "ended"]


def test_a_run_without_a_step_is_not_healthy():
    loop, stream = Loop(), io.StringIO()
    watch(loop.model, reporters=[JsonLines(stream)]).close()
    assert lines(stream.getvalue())[-1]["healthy"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_leaves_whole_lines(tmp_path: Path):
    script = (
        "import netdoctor, torch\nfrom tests.reports import Loop\ntorch.set_num_threads(1)\nloop = Loop()\n"
        "netdoctor.watch(loop.model, reporters=['jsonl'])\nwhile True: loop.step()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    path = tmp_path / "netdoctor.jsonl"
    patience = time.monotonic() + 60
    while time.monotonic() < patience and not (path.exists() and b"raised" in path.read_bytes()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    events = [line["event"] for line in lines(path.read_text(encoding="utf-8"))]
    assert events[:2] == ["started", "raised"]
    assert "ended" not in events
