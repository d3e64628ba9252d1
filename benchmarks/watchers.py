"""Ways to watch a training: netdoctor's settings, and what people use today."""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

import netdoctor
from benchmarks.twins import Start, Twin, Watching
from netdoctor.probes import losses, optimizers
from netdoctor.reporters import Reporter


def netdoctor_watch(twin: Twin, every: int | None = None, reporters: Sequence[Reporter] = ()) -> Watching:
    monitor = netdoctor.watch(twin.model, reporters=reporters, every=every)
    monitor._schedule.clock = twin.clock  # else the other twins' steps would pass for training time
    recorder, pace = monitor._recorder, monitor._schedule.sampling
    sampled: set[int] = set()  # the history of a long run would not tell all of them
    done = pace.done

    def noted(step: int, seconds: float, step_seconds: float) -> None:
        sampled.add(step)
        done(step, seconds, step_seconds)

    pace.done = noted  # type: ignore[method-assign]

    def resume() -> None:
        losses.listen(recorder)
        optimizers.listen(recorder)

    def pause() -> None:
        losses.unlisten(recorder)
        optimizers.unlisten(recorder)

    def finish() -> set[int]:
        monitor.close()
        return sampled

    return Watching(resume, pause, None, finish)


def offline_run() -> Any:
    """The one that there is: `wandb.watch` writes to no other."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    return wandb.run or wandb.init(mode="offline", dir=tempfile.mkdtemp(), project="netdoctor-overhead")


def netdoctor_and_wandb(twin: Twin) -> Watching:
    """Reports to W&B as well, in an offline run."""
    from netdoctor_wandb import WandbReporter

    run = offline_run()
    watching = netdoctor_watch(twin, reporters=[WandbReporter(run)])
    finish = watching.finish

    def finish_run() -> set[int]:
        sampled = finish()
        run.finish()
        return sampled

    watching.finish = finish_run
    return watching


def wandb_watch(twin: Twin, log: Any, every: int) -> Watching:
    """`wandb.watch` in an offline run, with one logged scalar a step as it needs."""
    run = offline_run()
    run.watch(twin.model, log=log, log_freq=every)

    def then(loss: torch.Tensor) -> None:
        run.log({"step": 1})

    def finish() -> set[int]:
        run.finish()
        return set()

    return Watching(then=then, finish=finish)


def detect_anomaly(twin: Twin) -> Watching:
    """Torch's own search for NaN in backward passes."""
    return Watching(
        resume=functools.partial(torch.autograd.set_detect_anomaly, True),
        pause=functools.partial(torch.autograd.set_detect_anomaly, False),
    )


def norms(twin: Twin) -> Watching:
    """The loop that everybody writes: the norm of each gradient, read one by one."""

    def then(loss: torch.Tensor) -> None:
        for parameter in twin.model.parameters():
            if parameter.grad is not None:
                parameter.grad.norm().item()

    return Watching(then=then)


def torchmortem(twin: Twin) -> Watching:
    autopsy = importlib.import_module("torchmortem").Autopsy(twin.model, optimizer=twin.optimizer)
    autopsy.attach()
    return Watching(then=lambda loss: autopsy.step(loss=loss.item()))


def torch_audit(twin: Twin) -> Watching:
    auditor = importlib.import_module("torch_audit").Auditor(twin.model, optimizer=twin.optimizer, every_n_steps=1)
    auditor.autopatch()
    return Watching()


NETDOCTOR: dict[str, Start] = {
    "default": netdoctor_watch,
    "every=1": functools.partial(netdoctor_watch, every=1),
    "default+wandb": netdoctor_and_wandb,
}
PEERS: dict[str, tuple[str, Start]] = {  # the package that must be there, and how it watches
    **{
        f"wandb.watch {log} 1/{every}": ("wandb", functools.partial(wandb_watch, log=log, every=every))
        for log in ("gradients", "all")
        for every in (1, 10, 100)
    },
    "torchmortem": ("torchmortem", torchmortem),
    "torch-audit": ("torch_audit", torch_audit),
    "detect_anomaly": ("torch", detect_anomaly),
    "norms with .item()": ("torch", norms),
}


def missing(peer: str) -> bool:
    """Whether the package is not installed."""
    return importlib.util.find_spec(PEERS[peer][0]) is None
