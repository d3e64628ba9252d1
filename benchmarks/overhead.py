"""What watching costs: the time of a watched step over that of an unwatched one, paired in one process.

Twins of one model train on the same batches, in turn: a twentieth of a second of steps each, one at least. Each step of
the watched twin is set against the unwatched one's. Steps that netdoctor samples and steps that it does not are two
kinds; the cost is the median ratio of each kind, weighted by how often it occurs, with a bootstrap interval.

    python benchmarks/overhead.py [--steps 300] [--models "mlp 6x1024"] [--settings default every=1] [--peers]
    python benchmarks/overhead.py --steps 20 --models "mlp 6x1024" --check benchmarks/recorded.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.models import MODELS
from benchmarks.twins import Times, measure
from benchmarks.watchers import NETDOCTOR, PEERS, missing

BARS = {  # setting -> model -> ratio, "" for any other model
    "default": {"": 1.01},
    "default+wandb": {"gpt 6x256": 1.015},  # half a percent more
    "every=1": {"gpt 6x256": 1.06, "resnet": 1.06, "mlp 6x1024": 1.08},
}


SLACK = 0.03  # by which a ratio may be worse than the recorded one, beyond half its own interval


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    setting: str
    times: Times

    @property
    def bar(self) -> float | None:
        bars = BARS.get(self.setting, {})
        return bars.get(self.model, bars.get(""))

    def __str__(self) -> str:
        middle, low, high = self.times.ratio
        bar = f"{self.bar:.3f}" if self.bar else ""
        share, step = self.times.sampled.mean(), np.median(self.times.unwatched) * 1e3
        added = self.times.added[0] * 1e3
        return (
            f"{self.model:12} {self.setting:26} {middle:7.3f}  {low:.3f} … {high:.3f}  {bar:>5} {share:8.1%} "
            f"{added:9.2f} ms {step:8.1f} ms"
        )


HEAD = f"{'model':12} {'setting':26} {'ratio':>7}  95 % interval    bar  sampled  added each  unwatched step"


def rows(models: Sequence[str], settings: Sequence[str], peers: Sequence[str], steps: int) -> Iterator[Row]:
    """Measure; netdoctor's settings side by side, each peer beside an unwatched twin of its own."""
    for name in models:
        torch.manual_seed(0)
        case = MODELS[name]()
        runs = [{setting: NETDOCTOR[setting] for setting in settings}, *({peer: PEERS[peer][1]} for peer in peers)]
        for starts in runs:
            for setting, times in measure(*case, starts, steps).items() if starts else ():
                yield Row(name, setting, times)


def record(measured: Iterable[Row], path: Path) -> None:
    """Write the ratios that later ones are held against; those of other models and settings stay."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for row in measured:
        known.setdefault(row.model, {})[row.setting] = round(row.times.ratio[0], 3)
    path.write_text(json.dumps(known, indent=2) + "\n")


def worse(measured: Iterable[Row], path: Path) -> list[str]:
    """What is worse than the recorded ratio by more than half the interval and `SLACK`."""
    known, found = json.loads(path.read_text()), []
    for row in measured:
        middle, low, high = row.times.ratio
        before = known.get(row.model, {}).get(row.setting)
        if before is not None and middle - before > (high - low) / 2 + SLACK:
            found.append(f"{row.model}, {row.setting}: {middle:.3f} [{low:.3f}, {high:.3f}], recorded {before:.3f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="counted steps after the first 50 (default 300)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--settings", nargs="*", choices=NETDOCTOR, default=["default", "every=1"])
    parser.add_argument("--peers", action="store_true", help="also what people use today, where it is installed")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the ratios there")
    parser.add_argument("--check", type=Path, metavar="FILE", help="fail where a ratio is worse than recorded there")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if not missing(peer)] if options.peers else []
    print(HEAD)
    measured = []
    for row in rows(options.models, options.settings, peers, options.steps):
        print(row, flush=True)
        measured.append(row)
    if options.record:
        record(measured, options.record)
    found = worse(measured, options.check) if options.check else []
    print(*(f"worse than recorded: {line}" for line in found), sep="\n", end="" if not found else "\n")
    return len(found)


if __name__ == "__main__":
    raise SystemExit(main())
