"""Measures everything and writes docs/performance.md with its pictures: python benchmarks/performance.py.

A quarter of an hour on two idle cores; ``--seconds 10`` for a glance.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from benchmarks import history_size, idle, import_time, overhead, scaling, watchers
from benchmarks.models import MODELS
from benchmarks.twins import Twin

mpl.use("Agg")
from matplotlib import pyplot  # after the choice of the backend

PEERS_ON = "gpt 6x256"
LEAST, MOST = 30, 4000  # rounds
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


def rounds(name: str, seconds: float) -> int:
    """Of one unwatched and two watched twins, as many as take so long."""
    model, x, y = MODELS[name]()
    twin = Twin(model)
    step = float(np.median([twin.step(x, y, None) for _ in range(8)]))
    return int(np.clip(seconds / (3 * step), LEAST, MOST))


def ratios(rows: Sequence[overhead.Row]) -> str:
    lines = []
    for row in rows:
        middle, low, high = row.times.ratio
        share = f"{row.times.sampled.mean():.1%}" if row.setting in watchers.NETDOCTOR else ""
        bar = f"{row.bar:.3f}" if row.bar else ""
        interval, count = f"{low:.3f} … {high:.3f}", str(len(row.times.watched))
        lines.append((f"{row.model}, {row.setting}", f"{middle:.3f}", interval, bar, count, share))
    return table(("model, setting", "ratio", "95 % interval", "bar", "rounds", "sampled steps"), lines)


def added(rows: Sequence[overhead.Row]) -> str:
    """What watching adds to all steps and to a sampled one, as shares of the unwatched step, and against netdoctor."""
    own = next(row for row in rows if row.setting == "every=1").times
    lines = []
    for row in rows:
        times, more = row.times, row.times.added[0]
        known = times.sampled.any() or (row.setting in watchers.PEERS and "1/10" not in row.setting)
        sampled = (f"{more / np.median(times.unwatched):+.1%}", f"{more / own.added[0]:.1f}×") if known else ("", "")
        lines.append((row.setting, f"{times.watched.sum() / times.unwatched.sum() - 1:+.1%}", *sampled))
    return table(("watched by", "added to all steps", "to a sampled one", "against netdoctor, every=1"), lines)


def pictures(series: Sequence[scaling.Series], path: Path) -> None:
    figure, axes = pyplot.subplots(1, len(series), figsize=(4 * len(series), 3.2), layout="constrained")
    for axis, each in zip(axes, series, strict=True):
        axis.plot(each.sizes, [seconds * 1e3 for seconds in each.seconds], "o-", color="#0072B2")
        axis.set(xlabel=each.axis, title=each.note, xscale="linear" if each.axis == "layers" else "log")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms a sampled step")
    figure.savefig(path, dpi=120)


def every_series() -> list[scaling.Series]:
    return list(scaling.all_series())


def page(seconds: float) -> str:
    commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=True).stdout
    own: list[overhead.Row] = []
    for name in MODELS:
        own += overhead.rows([name], ["default", "every=1"], [], rounds(name, seconds))
        print(*own[-2:], sep="\n", flush=True)
    peers = [peer for peer in watchers.PEERS if not watchers.missing(peer)]
    few = rounds(PEERS_ON, seconds / 3)
    others = list(overhead.rows([PEERS_ON], ["default", "every=1", "default+wandb"], peers, few))
    with get_context("spawn").Pool(1, maxtasksperchild=1) as apart:  # what ran before would tell
        grown = apart.apply(every_series)
        middle, low, high = apart.apply(idle.microseconds, (50,))
        held = apart.apply(history_size.megabytes, (200, 100_000))
    (HOME / "performance").mkdir(parents=True, exist_ok=True)
    pictures(grown, HOME / "performance" / "scaling.png")
    imported = import_time.seconds("import netdoctor; netdoctor.watch", 9)
    layers, batches = (next(s for s in grown if s.axis == axis) for axis in ("layers", "batch"))
    absent = ", ".join(peer for peer in watchers.PEERS if watchers.missing(peer)) or "none"
    return f"""# What watching costs

Made by `python benchmarks/performance.py --seconds {seconds:g}` at commit {commit.strip()}. Machine: {machine()}.

Ratios of a watched step to an unwatched one: twins of one model take their steps in turn in one process, in rounds
after the first 50 steps, AdamW, float32. Medians with 95 % bootstrap intervals (`python benchmarks/overhead.py`).

{ratios(own)}

Beside what people use today, on {PEERS_ON} (`python benchmarks/overhead.py --peers`; not installed here: {absent}):
the mean over all steps, and the median of those that are sampled.

{added(others)}

A step that is not sampled costs {middle:.2f} µs [{low:.2f}, {high:.2f}] a module while the hooks are on (bar
{idle.BAR}, `python benchmarks/idle.py`); between two samples of a simple loop they are off.

How a sampled step grows (`python benchmarks/scaling.py`): {scaling.slope_per_layer(layers) * 1e6:.1f} µs a layer
(bar 40); {scaling.growth_per_doubling(batches):+.1%} when the batch doubles, from 256 on (bar 5 %).

![Cost of a sampled step against layers, width, batch and parameters](performance/scaling.png)

The history of 200 layers after 100,000 recorded steps holds {held:.0f} MB (bar {history_size.BAR},
`python benchmarks/history_size.py`). Importing netdoctor takes {imported:.2f} s on top of torch (bar {import_time.BAR},
`python benchmarks/import_time.py`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40, help="of counted steps, a model (default 40)")
    text = page(parser.parse_args().seconds)
    (HOME / "performance.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
