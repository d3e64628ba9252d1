"""Runs Python and the command `netdoctor` as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
Done = subprocess.CompletedProcess[str]


def environment(path: str = "", **changes: str) -> dict[str, str]:
    """The environment in which netdoctor can be imported; ``path`` stands before it."""
    folders = [
        folder for folder in (path, str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")) if folder
    ]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1", "COLUMNS": "200", **changes}


def run(*command: str, path: str = "", cwd: Path | None = None, input: str = "", **changes: str) -> Done:
    """Run a command to its end."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(path, **changes),
        cwd=cwd,
        input=input,
        timeout=300,
    )


def netdoctor(*arguments: str, path: str = "", cwd: Path | None = None, input: str = "", **changes: str) -> Done:
    """Run the command `netdoctor` to its end."""
    return run(sys.executable, "-m", "netdoctor", *arguments, path=path, cwd=cwd, input=input, **changes)


def own_lines(text: str) -> list[str]:
    """What netdoctor itself says on the standard error: its sentences, blocks and tables are no part of a program."""
    return [line for line in text.splitlines() if line.startswith("netdoctor")]
