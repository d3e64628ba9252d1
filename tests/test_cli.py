"""The command, run as a user runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netdoctor import Severity
from netdoctor.rules import ALL
from netdoctor.rules.base import Rule

ROOT = Path(__file__).parent.parent


def run(*command: str, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    folders = [folder for folder in (path, str(ROOT), os.environ.get("PYTHONPATH", "")) if folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=300)


def netdoctor(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "netdoctor", *arguments, **options)


def test_version() -> None:
    done = netdoctor("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"netdoctor (\d+\.\d+\.\S+|\(not installed\))\n", done.stdout)


def test_version_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    assert netdoctor("--version", path=str(tmp_path)).returncode == 0


@pytest.mark.skipif(shutil.which("netdoctor", path=Path(sys.executable).parent) is None, reason="not installed")
def test_the_installed_command() -> None:
    done = run(str(Path(sys.executable).with_name("netdoctor")), "--version")
    assert done.returncode == 0
    assert done.stdout == netdoctor("--version").stdout


def test_help_names_every_command() -> None:
    done = netdoctor("--help")
    assert done.returncode == 0
    for command in ("rules", "explain", "demo"):
        assert command in done.stdout


@pytest.mark.parametrize("arguments", [[], ["treat"], ["explain"], ["rules", "extra"]])
def test_misuse_ends_with_2(arguments: list[str]) -> None:
    done = netdoctor(*arguments)
    assert done.returncode == 2
    assert "usage: netdoctor" in done.stderr
    assert done.stdout == ""


def test_rules_lists_the_catalogue() -> None:
    done = netdoctor("rules", COLUMNS="200")
    assert done.returncode == 0
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[:2] for line in lines if not line.startswith(" ")] == [
        [rule.slug, rule.severity.name] for rule in ALL
    ]
    text = " ".join(done.stdout.split())
    for rule in ALL:
        assert rule.summary[:40] in text
    assert {rule.severity for rule in ALL} <= set(Severity)


@pytest.mark.parametrize("rule", [ALL[0], ALL[-1]], ids=lambda rule: rule.slug)
def test_explain_shows_the_page(rule: Rule) -> None:
    done = netdoctor("explain", rule.slug)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "##" not in done.stdout  # rendered
    words = " ".join(done.stdout.split())
    for part in (rule.slug, rule.severity.name, rule.summary, "What it looks at", "When it is wrong", "References"):
        assert part in words
    assert f'ignore=["{rule.slug}"]' in words
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_explain_corrects_typos() -> None:
    done = netdoctor("explain", "vanishing-gradiant")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "'vanishing-gradiant'" in done.stderr
    assert "Did you mean 'vanishing-gradient'?" in done.stderr
    assert all(rule.slug in done.stderr for rule in ALL)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["-m", "netdoctor", "demo"], [str(ROOT / "examples" / "digits.py")]])
def test_demo_shows_a_sick_and_a_cured_training(command: list[str]) -> None:
    done = run(sys.executable, *command)
    assert done.returncode == 0, done.stderr
    before, after = (float(share) for share in re.findall(r"Accuracy on unseen digits: ([\d.]+)%", done.stdout))
    assert before < 20
    assert after > 90
    sick, cured = done.stderr.split("netdoctor  Nothing found.")
    assert "netdoctor  step 1  WARNING  poor-initialization  layers.0 … " in sick
    assert ".remedies[0].apply(model, optimizer)" in sick
    assert "300 steps" in cured
    assert "WARNING" not in cured
    assert "Traceback" not in done.stderr


def test_demo_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError(\"No module named 'sklearn'\", name='sklearn')")
    done = netdoctor("demo", path=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "netdoctor: the demo needs scikit-learn: pip install scikit-learn\n"


def test_output_in_ascii() -> None:
    done = netdoctor("explain", "vanishing-gradient", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
