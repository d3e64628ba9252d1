"""What `import netdoctor` and its first use take on top of torch: python benchmarks/import_time.py [--runs 15]."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from tempfile import TemporaryDirectory

PROGRAM = "import torch, time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
STATEMENTS = {"import netdoctor": "import netdoctor", "netdoctor.watch": "import netdoctor; netdoctor.watch"}
BAR = 0.15  # seconds on top of torch, DESIGN.md section 6


def seconds(statement: str, runs: int) -> float:
    """Median over fresh processes, the first left out: it fills the disk's cache and compiles, as pip would."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    with TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        taken = [
            float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
            for _ in range(runs + 1)
        ]
    return statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    for name, statement in STATEMENTS.items():
        print(f"{name:20} {seconds(statement, runs):.3f} s on top of torch (bar {BAR})", flush=True)


if __name__ == "__main__":
    main()
