"""The packages of the integrations keep their conventions, and cost nothing unless they are asked for."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from netdoctor.arguments import chosen_reporters
from netdoctor.reporters.by_name import REPORTERS

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path for path in (ROOT / "integrations").iterdir() if path.is_dir() and path.name[0] != "_")
SOURCES = [source for package in PACKAGES for source in package.rglob("*.py")]
HOSTS = ("wandb", "tensorboard", "mlflow")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_it_is_packaged_and_has_an_extra(package: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"integrations/{package.name}"' in project
    assert re.search(rf"^{package.name.removeprefix('netdoctor_')} = \[", project, re.MULTILINE)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_calls_public_names_only(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "netdoctor":
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert not [part for part in parts if part.startswith("_")]


@pytest.mark.parametrize("name", ["console", "jsonl", *HOSTS])
def test_a_reporter_by_its_name(name: str) -> None:
    (reporter,) = chosen_reporters([name])
    assert type(reporter).__name__ == REPORTERS[name][1]


@pytest.mark.parametrize(("given", "nearest"), [("wand", "wandb"), ("tensor-board", "tensorboard"), ("json", "jsonl")])
def test_the_nearest_name_is_given(given: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"no reporter '{given}'. Did you mean '{nearest}'?"):
        chosen_reporters([given])


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("wandb", "netdoctor_wandb")])
def test_what_is_missing_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [each for each in sys.modules if each.split(".")[0] in (module, f"netdoctor_{name}")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"reporter '{name}' needs .*\[{name}\]"):
        chosen_reporters([name])


def test_no_host_is_imported_unasked(tmp_path: Path) -> None:
    script = """
import sys, netdoctor
from tests.reports import Loop
loop = Loop()
with netdoctor.watch(loop.model, reporters=["console", "jsonl"]): loop.step()
hosts = "wandb tensorboard mlflow lightning transformers PIL plotly pandas".split()
print([name for name in hosts if name in sys.modules])
"""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "integrations")))
    environment = {**os.environ, "PYTHONPATH": paths}
    program = [sys.executable, "-c", script]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
