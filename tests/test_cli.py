"""The command, run as a user runs it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from netdoctor import History, Severity
from netdoctor.rules import ALL
from netdoctor.rules.base import Rule
from tests.processes import ROOT, netdoctor, run


def test_version() -> None:
    done = netdoctor("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"netdoctor (\d+\.\d+\.\S+|\(not installed\))\n", done.stdout)


HELP = [[], ["run"], ["report"], ["explain"], ["rules"], ["demo"]]


@pytest.mark.parametrize("arguments", [["--version"], *([*command, "--help"] for command in HELP)])
def test_help_is_instant(arguments: list[str], tmp_path: Path) -> None:
    for module in ("torch", "numpy", "scipy", "rich"):
        (tmp_path / f"{module}.py").write_text(f"raise SystemExit('{module} was imported')")
    done = netdoctor(*arguments, path=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(arguments) == 1 or f"example: netdoctor {arguments[0]}" in done.stdout


@pytest.mark.skipif(shutil.which("netdoctor", path=Path(sys.executable).parent) is None, reason="not installed")
def test_the_installed_command() -> None:
    done = run(str(Path(sys.executable).with_name("netdoctor")), "--version")
    assert done.returncode == 0
    assert done.stdout == netdoctor("--version").stdout


def test_help_names_every_command() -> None:
    done = netdoctor("--help")
    assert done.returncode == 0
    for command in ("run", "report", "rules", "explain", "demo"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["treat"], ["explain"], ["rules", "extra"], ["run"], ["run", "-m"], ["run", "--"], ["report"]]
)
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


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--ignore", "dead-unit"], "argument --ignore: no rule 'dead-unit'. Did you mean 'dead-units'?"),
        (["--ignore", "base"], "argument --ignore: no rule 'base'."),
        (["--reporter", "consol"], "argument --reporter: no reporter 'consol'. Did you mean 'console'?"),
        (["--every", "0"], "argument --every: '0' is not a number of steps, 1 or more"),
        (["--every", "x"], "argument --every: 'x' is not a number of steps, 1 or more"),
        (["--budget", "2"], "argument --budget: '2' is not a share of the training time, above 0 and at most 1"),
        (["--budget", "nan"], "argument --budget: 'nan' is not a share of the training time, above 0 and at most 1"),
        (["--fail-on", "fatal"], "argument --fail-on: 'fatal' is none of note, warning, error"),
        (["--save", "no/run.npz"], "argument --save: there is no folder 'no'"),
        (["--report", "."], "argument --report: '.' is a folder"),
        (["--repor", "x"], "unrecognized arguments: --repor"),
    ],
)
def test_options_of_run_are_checked_before_it_runs(options: list[str], why: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('it ran')")
    done = netdoctor("run", *options, "train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_page_without_its_extra(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('it ran')")
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['jinja2'] = None\n")
    History.of(loss=[1.0]).save(tmp_path / "run.npz")
    for command in (["run", "--report", "r.html", "train.py"], ["report", "run.npz", "-o", "r.html"]):
        done = netdoctor(*command, cwd=tmp_path, path=str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "netdoctor: the HTML report needs jinja2: pip install 'netdoctor-torch[html]'\n"


def newer(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netdoctor.history.VERSION", 999)
        History.of(loss=[1.0]).save(path)


def damaged(path: Path) -> None:
    History.of(loss=[1.0] * 500).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def of_lies(path: Path) -> None:
    history = History.of(loss=[1.0])
    history.context = {"cases": [{"finding": "none"}]}
    history.save(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "can't open run.npz: No such file or directory"),
        (Path.mkdir, "can't open run.npz: Is a directory"),
        (lambda path: path.write_text("loss 0.3"), "run.npz is damaged or no netdoctor history: "),
        (Path.touch, "run.npz is damaged or no netdoctor history: "),
        (damaged, "run.npz is damaged or no netdoctor history: "),
        (of_lies, "run.npz is damaged: what it says of the findings cannot be read: "),
        (newer, "run.npz was written by a newer netdoctor: format version 999, this one reads up to 1; upgrade"),
    ],
    ids=["missing", "folder", "text", "empty", "damaged", "lies", "newer"],
)
def test_what_is_no_run_file(make: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    make(tmp_path / "run.npz")
    done = netdoctor("report", "run.npz", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"netdoctor: {why}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["-m", "netdoctor", "demo"], [str(ROOT / "examples" / "digits.py")]])
def test_demo_shows_a_sick_and_a_cured_training(command: list[str]) -> None:
    done = run(sys.executable, *command)
    assert done.returncode == 0, done.stderr
    before, after = (float(share) for share in re.findall(r"Accuracy on unseen digits: ([\d.]+)%", done.stdout))
    assert before < 20
    assert after > 90
    sick, cured = done.stderr.split("netdoctor  Nothing found.")
    assert "netdoctor  step 1  ERROR  poor-initialization  layers.0 … " in sick
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
