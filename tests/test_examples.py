"""The examples of the reporters and of the frameworks run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = {  # what it prints, and a file that it leaves
    "wandb_report": ("Written to ", "wandb/offline-run-*/files/media/html/netdoctor/layers_*.html"),
    "tensorboard_report": ("Written to runs/digits", "runs/digits/events.out.tfevents.*"),
    "mlflow_report": (": poor-initialization", "mlruns/**/netdoctor/findings.md"),
    "jsonl_report": ("step 1: ERROR poor-initialization", "netdoctor.jsonl"),
    "lightning_callback": ("poor-initialization", "lightning_logs/version_0/netdoctor-report.html"),
    "transformers_callback": ("learning-rate-too-large", ""),
    "accelerate_loop": ("poor-initialization", ""),
    "ignite_engine": ("poor-initialization", ""),
    "skorch_net": ("poor-initialization", ""),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    printed, file = EXAMPLES[name]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW"))}
    environment |= {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "integrations"))), "PYTHONUTF8": "1"}
    program = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout + done.stderr
    assert not file or list(tmp_path.glob(file))
    assert "failed" not in done.stderr
    assert "Traceback" not in done.stderr
