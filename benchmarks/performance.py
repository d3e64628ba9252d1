"""Measures everything and writes docs/performance.md with its pictures: python benchmarks/performance.py.

Half an hour on two idle cores; ``--steps 60`` for a glance.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from benchmarks import history_size, idle, import_time, overhead, scaling, watchers
from benchmarks.models import MODELS

mpl.use("Agg")
from matplotlib import pyplot  # after the choice of the backend

PEERS_ON = "gpt 6x256"
HOME = Path(__file__).parents[1] / "docs"


def machine() -> str:
    """What was measured on, in words."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{model}, {os.cpu_count()} cores, {device}, Python {platform.python_version()}, torch {torch.__version__}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *lines))


def ratios(rows: Sequence[overhead.Row]) -> str:
    lines = []
    for row in rows:
        middle, low, high = row.times.ratio
        share = f"{row.times.sampled.mean():.1%}" if row.setting in watchers.NETDOCTOR else ""
        bar = f"{row.bar:.3f}" if row.bar else ""
        lines.append((f"{row.model}, {row.setting}", f"{middle:.3f}", f"{low:.3f} … {high:.3f}", bar, share))
    return table(("model, setting", "ratio", "95 % interval", "bar", "sampled steps"), lines)


def added(rows: Sequence[overhead.Row]) -> str:
    """Time that each sampled step takes longer, as a share of the unwatched step and against netdoctor's."""
    own = next(row for row in rows if row.setting == "every=1").times
    lines = []
    for row in rows:
        more = row.times.added[0]
        step = float(np.median(row.times.unwatched))
        lines.append((row.setting, f"{more / step:+.1%}", f"{more / own.added[0]:.1f}×"))
    return table(("watched by", "added to the step", "against netdoctor, every=1"), lines)


def pictures(series: Sequence[scaling.Series], path: Path) -> None:
    figure, axes = pyplot.subplots(1, len(series), figsize=(4 * len(series), 3.2), layout="constrained")
    for axis, each in zip(axes, series, strict=True):
        axis.loglog(each.sizes, [seconds * 1e3 for seconds in each.seconds], "o-", color="#0072B2")
        axis.set(xlabel=each.axis, title=each.note)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms a sampled step")
    figure.savefig(path, dpi=120)


def page(steps: int) -> str:
    commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=True).stdout
    own = list(overhead.rows(list(MODELS), ["default", "every=1"], [], steps))
    peers = [peer for peer in watchers.PEERS if not watchers.missing(peer)]
    others = list(overhead.rows([PEERS_ON], ["default", "every=1", "default+wandb"], peers, max(steps // 2, 30)))
    grown = list(scaling.all_series())
    (HOME / "performance").mkdir(parents=True, exist_ok=True)
    pictures(grown, HOME / "performance" / "scaling.png")
    middle, low, high = idle.microseconds(50)
    held = history_size.megabytes(200, 100_000)
    seconds = import_time.seconds("import netdoctor; netdoctor.watch", 9)
    layers, batches = (next(s for s in grown if s.axis == axis) for axis in ("layers", "batch"))
    absent = ", ".join(peer for peer in watchers.PEERS if watchers.missing(peer)) or "none"
    return f"""# What watching costs

Made by `python benchmarks/performance.py` at commit {commit.strip()}. Machine: {machine()}.

Ratios of a watched step to an unwatched one: twins of one model take their steps in turn in one process, {steps} rounds
after the first 50 steps, AdamW, float32. Medians with 95 % bootstrap intervals (`python benchmarks/overhead.py`).

{ratios(own)}

Beside what people use today, on {PEERS_ON} (not installed here: {absent}; `python benchmarks/overhead.py --peers`):

{added(others)}

A step that is not sampled costs {middle:.2f} µs [{low:.2f}, {high:.2f}] a module while the hooks are on (bar
{idle.BAR}, `python benchmarks/idle.py`); between two samples of a simple loop they are off.

How a sampled step grows (`python benchmarks/scaling.py`): {scaling.slope_per_layer(layers) * 1e6:.1f} µs a layer
(bar 40); {scaling.growth_per_doubling(batches):+.1%} when the batch doubles, from 256 on (bar 5 %).

![Cost of a sampled step against layers, width, batch and parameters](performance/scaling.png)

The history of 200 layers after 100,000 recorded steps holds {held:.0f} MB (bar {history_size.BAR},
`python benchmarks/history_size.py`). Importing netdoctor takes {seconds:.2f} s on top of torch (bar {import_time.BAR},
`python benchmarks/import_time.py`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="counted steps after the first 50 (default 300)")
    options = parser.parse_args()
    text = page(options.steps)
    (HOME / "performance.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
