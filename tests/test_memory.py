"""The memory of a long watched run stays flat, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_ten_thousand_steps() -> None:
    """`benchmarks/memory.py` fails where Python's memory or the process's is over 5 MB from that after 500 steps."""
    program = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--every", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10,000" in done.stdout
