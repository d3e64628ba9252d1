"""What watching costs: the time of a watched step over that of an unwatched one, paired in one process.

Twins of one model train on the same batches, a step of each in turn, so that whatever else the machine does hits all
of them alike. Each round gives the ratio of the watched twin's step to the unwatched one's. Steps that netdoctor
samples and steps that it does not are two kinds; the cost is the median ratio of each kind, weighted by how often it
occurs, with a bootstrap interval over rounds. A rare sampled step counts in full, a hiccup of the machine does not.

    python benchmarks/overhead.py [--steps 300] [--models "mlp 6x1024"] [--settings default every=1 wandb]
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import netdoctor
from benchmarks.models import MODELS
from netdoctor.reporters import Reporter

Array = NDArray[np.float64]
WARM_UP = 50  # steps before counting: netdoctor samples densely there
BARS = {"default": 1.01, "default+wandb": 1.015, "every=1": 1.08}  # DESIGN.md, section 6; W&B: half a percent more


Finish = Callable[[], "set[int]"]  # ends the watching; the steps that were sampled, from 1


class Twin:
    """One copy of the model with its optimizer, and a clock that runs during its own steps only."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.seconds = 0.0
        self.started = 0.0

    def clock(self) -> float:
        return self.seconds + perf_counter() - self.started

    def step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Seconds of one training step."""
        self.started = perf_counter()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        taken = perf_counter() - self.started
        self.seconds += taken
        return taken


def watch_default(twin: Twin, every: int | None = None, reporters: Sequence[Reporter] = ()) -> Finish:
    monitor = netdoctor.watch(twin.model, reporters=reporters, every=every)
    monitor._schedule.clock = twin.clock  # else the other twins' steps would pass for training time

    def finish() -> set[int]:
        monitor.close()
        return set(monitor.history.table("weight_rms").steps.tolist())

    return finish


def watch_every_step(twin: Twin) -> Finish:
    return watch_default(twin, every=1)


def offline_run() -> Any:
    """The one that there is: `wandb.watch` writes to no other."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    return wandb.run or wandb.init(mode="offline", dir=tempfile.mkdtemp(), project="netdoctor-overhead")


def report_to_wandb(twin: Twin) -> Finish:
    """Reports to W&B as well, in an offline run."""
    from netdoctor_wandb import WandbReporter

    run = offline_run()
    close = watch_default(twin, reporters=[WandbReporter(run)])

    def finish() -> set[int]:
        sampled = close()
        run.finish()
        return sampled

    return finish


def watch_wandb(twin: Twin) -> Finish:
    """`wandb.watch(log="all", log_freq=1)` in an offline run, with one logged scalar a step as it needs."""
    run = offline_run()
    run.watch(twin.model, log="all", log_freq=1)
    twin.model.register_forward_hook(lambda *_: run.log({"step": 1}))

    def finish() -> set[int]:
        run.finish()
        return set()

    return finish


SETTINGS: dict[str, Callable[[Twin], Finish]] = {
    "default": watch_default,
    "default+wandb": report_to_wandb,
    "every=1": watch_every_step,
    "wandb": watch_wandb,
}


def measure(name: str, settings: list[str], steps: int) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]:
    """Seconds of each counted step of the unwatched twin ("") and of each setting, and which steps were sampled."""
    torch.manual_seed(0)
    model, x, y = MODELS[name]()
    twins = {key: Twin(model) for key in ("", *settings)}
    finishers = {setting: SETTINGS[setting](twins[setting]) for setting in settings}
    times: dict[str, list[float]] = {key: [] for key in twins}
    keys = list(twins)
    for step in range(WARM_UP + steps):
        keys = keys[1:] + keys[:1]  # nobody always runs first
        for key in keys:
            seconds = twins[key].step(x, y)
            if step >= WARM_UP:
                times[key].append(seconds)
    counted = np.arange(WARM_UP + 1, WARM_UP + steps + 1)
    sampled = {setting: np.isin(counted, list(finish())) for setting, finish in finishers.items()}
    return {key: np.array(values) for key, values in times.items()}, sampled


def cost(ratios: Array, sampled: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Median ratio of sampled and of other steps, weighted by their shares, with its 95 % bootstrap interval."""
    random = np.random.default_rng(0)
    total = np.zeros(2001)  # the estimate, then the resampled ones
    for kind in (ratios[sampled], ratios[~sampled]):
        if len(kind):
            picks = random.integers(0, len(kind), (2000, len(kind)))
            medians = np.concatenate(([np.median(kind)], np.median(kind[picks], axis=1)))
            total += medians * len(kind) / len(ratios)
    low, high = np.percentile(total[1:], (2.5, 97.5))
    return float(total[0]), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="counted steps after the first 50 (default 300)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    print(f"{'model':12} {'setting':13} {'ratio':>7}  95 % interval   bar    sampled  step")
    for name in options.models:
        times, sampled = measure(name, options.settings, options.steps)
        for setting in options.settings:
            middle, low, high = cost(times[setting] / times[""], sampled[setting])
            bar = f"{BARS[setting]:<5g}" if setting in BARS else " " * 5
            share = f"{sampled[setting].mean():7.1%}"
            step = f"{np.median(times['']) * 1e3:.1f} ms"
            print(f"{name:12} {setting:13} {middle:7.3f}  {low:.3f} … {high:.3f}  {bar}  {share}  {step}", flush=True)


if __name__ == "__main__":
    main()
