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
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import netdoctor
from benchmarks.models import MODELS

Array = NDArray[np.float64]
WARM_UP = 50  # steps before counting: netdoctor samples densely there
BARS = {"default": 1.01, "every=1": 1.08}  # DESIGN.md, section 6


Finish = Callable[[], "set[int]"]  # ends the watching; the steps that were sampled, from 1


def watch_default(model: nn.Module, every: int | None = None) -> Finish:
    monitor = netdoctor.watch(model, reporters=[], every=every)

    def finish() -> set[int]:
        monitor.close()
        return set(monitor.history.table("weight_rms").steps.tolist())

    return finish


def watch_every_step(model: nn.Module) -> Finish:
    return watch_default(model, every=1)


def watch_wandb(model: nn.Module) -> Finish:
    """`wandb.watch(log="all", log_freq=1)` in an offline run, with one logged scalar a step as it needs."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=tempfile.mkdtemp(), project="netdoctor-overhead")
    run.watch(model, log="all", log_freq=1)
    model.register_forward_hook(lambda *_: run.log({"step": 1}))

    def finish() -> set[int]:
        run.finish()
        return set()

    return finish


SETTINGS: dict[str, Callable[[nn.Module], Finish]] = {
    "default": watch_default,
    "every=1": watch_every_step,
    "wandb": watch_wandb,
}


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one training step."""
    start = perf_counter()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    return perf_counter() - start


def measure(name: str, settings: list[str], steps: int) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]:
    """Seconds of each counted step of the unwatched twin ("") and of each setting, and which steps were sampled."""
    torch.manual_seed(0)
    model, x, y = MODELS[name]()
    twins: dict[str, Any] = {"": copy.deepcopy(model), **{setting: copy.deepcopy(model) for setting in settings}}
    finishers = {setting: SETTINGS[setting](twins[setting]) for setting in settings}
    optimizers = {key: torch.optim.AdamW(twin.parameters(), lr=1e-4) for key, twin in twins.items()}
    times: dict[str, list[float]] = {key: [] for key in twins}
    keys = list(twins)
    for step in range(WARM_UP + steps):
        keys = keys[1:] + keys[:1]  # nobody always runs first
        for key in keys:
            seconds = train_step(twins[key], optimizers[key], x, y)
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
    print(f"{'model':12} {'setting':10} {'ratio':>7}  95 % interval   bar   sampled  step")
    for name in options.models:
        times, sampled = measure(name, options.settings, options.steps)
        for setting in options.settings:
            middle, low, high = cost(times[setting] / times[""], sampled[setting])
            bar = f"{BARS[setting]:.2f}" if setting in BARS else "    "
            share = f"{sampled[setting].mean():7.1%}"
            step = f"{np.median(times['']) * 1e3:.1f} ms"
            print(f"{name:12} {setting:10} {middle:7.3f}  {low:.3f} … {high:.3f}  {bar}  {share}  {step}", flush=True)


if __name__ == "__main__":
    main()
