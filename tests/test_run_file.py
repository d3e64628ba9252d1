"""The file of a run is saved while it goes on, seldom enough to cost nothing."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from netdoctor.findings import Diagnosis
from netdoctor.history import History
from netdoctor.reporters import Report
from netdoctor.reporters.run_file import INTERVAL, SHARE, RunFile, save_aside


class Time:
    """A clock that stands still, and a save that takes its time."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now = 0.0
        self.saves = 0
        self.seconds = seconds
        patch.setattr("netdoctor.reporters.run_file.time.monotonic", lambda: self.now)
        patch.setattr(History, "save", self.save)

    def save(self, path: Path) -> None:
        self.saves += 1
        self.now += self.seconds


def report() -> Report:
    return Report(Diagnosis(1), (), (), (), History.of(loss=[1.0]), 0.0, 0.0)


@pytest.mark.parametrize("seconds", [0.001, 0.5])
def test_it_is_saved_now_and_then(seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch, seconds)
    reporter = RunFile(tmp_path / "run.npz")
    while time.now < 3600:
        reporter.report(report())
        time.now += 1
    assert time.saves >= 3600 / max(INTERVAL + 1, seconds / SHARE + 1) - 1
    assert time.saves * seconds <= 2 * SHARE * 3600
    assert time.saves <= 3600 / INTERVAL
    before = time.saves
    reporter.close(report())
    assert time.saves == before + 1


def test_the_path_is_that_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reporter = RunFile("run.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    reporter.close(report())
    assert History.load(tmp_path / "run.npz") == History.of(loss=[1.0])


def test_files_saved_aside_do_not_replace_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("netdoctor.reporters.run_file.time.strftime", lambda form: "netdoctor-20260101-120000")
    paths = [save_aside(History.of(loss=[float(number)])) for number in range(3)]
    assert [path.name[len("netdoctor-20260101-120000") :] for path in paths] == [".npz", "-2.npz", "-3.npz"]
    assert [History.load(path).latest("loss")[""] for path in paths] == [0.0, 1.0, 2.0]


def test_saved_elsewhere_if_need_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = History.save

    def save(history: History, path: Path) -> None:
        if path.parent != tmp_path:
            raise OSError("read-only file system")
        original(history, path)

    monkeypatch.setattr(History, "save", save)
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))
    path = save_aside(History.of(loss=[1.0]))
    assert path.parent == tmp_path
    assert re.fullmatch(r"netdoctor-\d{8}-\d{6}\.npz", path.name)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(OSError, match="can be written"):
        save_aside(History.of(loss=[1.0]))
