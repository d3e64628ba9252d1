"""The HTML report of a training that really runs: by name, by call, and what its example writes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from netdoctor import Diagnosis, History, Monitor, watch
from netdoctor.diagnose import diagnose
from netdoctor.reporters import html

ROOT = Path(__file__).parents[1]


def train(watched: nn.Module, steps: int = 12, optimizer: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    torch.set_num_threads(1)
    optimizer = optimizer or torch.optim.SGD(watched.parameters(), lr=0.1)
    for _ in range(steps):
        loss = F.cross_entropy(watched(torch.randn(8, 4)), torch.randint(3, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_by_name_the_page_lies_where_the_training_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sick = model()
    with watch(sick, reporters=["html"]):
        train(sick)
    text = (tmp_path / "netdoctor-report.html").read_text(encoding="utf-8")
    assert "Sequential" in text
    assert "12 steps" in text


def test_by_call_the_page_shows_the_run_so_far(tmp_path: Path):
    watched = model()
    with watch(watched, reporters=[]) as monitor:
        optimizer = train(watched, 5)
        first = monitor.report(tmp_path / "page.html").read_text(encoding="utf-8")
        train(watched, 5, optimizer)
    assert "in 5 steps" in first
    assert monitor.report(tmp_path / "page.html") == tmp_path / "page.html"
    assert "in 10 steps" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_saved_run_makes_the_same_pictures(tmp_path: Path):
    watched = model()
    with watch(watched, reporters=[]) as monitor:
        train(watched)
    monitor.history.save(tmp_path / "run")
    history = History.load(tmp_path / "run")
    saved = html.render(html.saved(history, diagnose(history)))
    live = monitor.report(tmp_path / "page.html").read_text(encoding="utf-8")
    start, end = '<figure class="figure', "</main>"
    assert saved[saved.index(start) : saved.index(end)] == live[live.index(start) : live.index(end)]


def test_a_full_disk_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.chdir(tmp_path)

    def full(*_: object) -> None:
        raise OSError("no space left")

    watched = model()
    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level(logging.WARNING, "netdoctor"), watch(watched, reporters=["html"]) as monitor:
        train(watched)
    assert "the reporter Html failed" in caplog.text
    assert monitor.step == 12


def test_without_jinja2_watch_says_so_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    html.page.environment.cache_clear()
    with pytest.raises(ImportError, match="netdoctor-torch"):
        watch(model(), reporters=["html"])


def test_before_the_first_step(tmp_path: Path):
    with watch(model(), reporters=[]) as monitor:
        assert "No optimizer step was seen" in monitor.report(tmp_path / "page.html").read_text(encoding="utf-8")


def test_nothing_of_torch_changes(tmp_path: Path):
    """A report in the middle of a training leaves weights, gradients and random numbers as they are."""
    watched = model()
    with watch(watched, reporters=[]) as monitor:
        train(watched, 3)
        before = [*watched.state_dict().values(), *(p.grad for p in watched.parameters()), torch.get_rng_state()]
        before = [value.clone() for value in before if value is not None]
        monitor.report(tmp_path / "page.html")
        after = [*watched.state_dict().values(), *(p.grad for p in watched.parameters()), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, (v for v in after if v is not None), strict=True))


def test_the_example_writes_its_page(tmp_path: Path):
    path = tmp_path / "digits.html"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "html_report.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Open {path}.\n"
    text = path.read_text(encoding="utf-8")
    assert "<span>Overfitting</span>" in text
    assert "Best validation pass: step " in text
    assert "Val accuracy" in text or "validation accuracy" in text.lower()


def test_the_types_are_what_notebooks_look_for():
    assert all(callable(getattr(kind, "_repr_html_", None)) for kind in (Monitor, Diagnosis))
