"""Tries remedies out on copies of a model, against an untouched one, on the same batches."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn
from torch.optim import Optimizer

from netdoctor import arguments
from netdoctor.batches import endless, loss_of, on_device, repeatable
from netdoctor.copies import apart, copy_training
from netdoctor.findings import Diagnosis, Finding, Remedy, Severity
from netdoctor.monitor import Monitor, monitor_of
from netdoctor.probes.anatomy import watched_modules
from netdoctor.probes.schedule import Schedule
from netdoctor.rules import ALL
from netdoctor.treatment import RemedyError
from netdoctor.trial_results import Arm, Trial, ranked

MOST = 6  # remedies that are tried where none are named
EVALUATED = 8  # batches that the loss at the end is the mean of


def trial(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: Any,
    optimizer: Optimizer,
    remedies: Sequence[Remedy] | None = None,
    steps: int = 100,
    *,
    repeats: int = 3,
    seconds: float | None = None,
    validation: Iterable[Any] | None = None,
    progress: bool = True,
) -> Trial:
    """Train copies of a model, one untouched and one for each remedy, and tell which remedy to take.

    All copies see the same batches with the same random numbers; a repeat has others. What counts is the loss as it was
    before any remedy, in evaluation mode, after the last step. The originals stay as they are. Where a monitor watches
    the model, its findings' remedies get what was measured as their expected effect.

    Args:
        model: New or half-trained; remedies that only help from the start want a new one.
        loader: Batches; begun again where it ends. What an iterator gives is kept.
        loss_fn: As for `checkup`; a criterion module is copied too, for remedies that change it.
        optimizer: Its state and hooks of remedies are copied, its scheduler is not.
        remedies: What to try; by default those of the monitor's findings, or else those of the untouched copy's.
        steps: Of each training.
        repeats: Of each training.
        seconds: After which no further training begins; the first repeat is completed.
        validation: Batches that the loss after the last step is taken on; default are further ones of ``loader``.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: Model or optimizer is none, or a batch has no form that ``loss_fn`` takes.
        ValueError: ``steps`` or ``repeats`` is below 1, or something cannot be copied.
        MemoryError: The device has no room for a copy.
    """
    arguments.check_model(model)
    arguments.check_optimizer(optimizer)
    if steps < 1 or repeats < 1:
        raise ValueError(f"steps and repeats are 1 or more, not {steps} and {repeats}")
    _check_memory(model, optimizer)
    monitor = monitor_of(model)
    if remedies is None and monitor is not None:
        remedies = worth_trying(monitor.findings)
    deadline = math.inf if seconds is None else perf_counter() + seconds
    program = _Program(model, optimizer, loss_fn, repeatable(loader), validation and repeatable(validation), steps)
    with apart(model, loader), Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("trial", total=None)
        program.tick = lambda: bar.advance(task)
        untouched = [program.run(None, 0)]
        chosen = worth_trying(untouched[0].verdict.findings) if remedies is None else tuple(remedies)
        bar.update(task, total=steps * repeats * (len(chosen) + 1))
        runs: dict[int, list[_Run]] = {index: [] for index in range(len(chosen))}
        refused: dict[int, str] = {}
        for repeat in range(repeats):
            if repeat and perf_counter() > deadline:
                break
            if repeat:
                untouched.append(program.run(None, repeat))
            for index, remedy in enumerate(chosen):
                if index not in refused:
                    try:
                        runs[index].append(program.run(remedy, repeat))
                    except RemedyError as error:
                        refused[index] = str(error).splitlines()[0]
    arms = [_arm(None, untouched)]
    arms += [_arm(remedy, runs[index], refused.get(index, "")) for index, remedy in enumerate(chosen)]
    done = len(untouched)
    note = f"Time was up after {done} of {repeats} repeats." if done < repeats else ""
    result = Trial(ranked(tuple(arms)), steps, note)
    if monitor is not None:
        monitor.expect({remedy.action: remedy.effect for remedy in result.remedies})
    return result


def worth_trying(findings: Iterable[Finding], most: int = MOST) -> tuple[Remedy, ...]:
    """The applicable remedies of findings, the worst finding's first, none twice."""
    by_weight = sorted(findings, key=lambda finding: -finding.severity)
    each = [remedy for finding in by_weight for remedy in finding.remedies if remedy.applicable]
    return tuple({remedy.action: remedy for remedy in reversed(each)}[remedy.action] for remedy in _first(each))[:most]


def _first(remedies: Iterable[Remedy]) -> Iterator[Remedy]:
    seen: set[str] = set()
    for remedy in remedies:
        if remedy.action not in seen:
            seen.add(remedy.action)
            yield remedy


class _Run:
    """One training: losses of its steps, the loss at its end, and what was seen of it."""

    def __init__(self, losses: list[float], monitor: Monitor) -> None:
        self.losses = losses
        self.loss = math.inf
        self.verdict: Diagnosis = monitor.diagnose()
        ratios = monitor.history.table("update_ratio")
        seen = ratios.values[np.isfinite(ratios.values) & (ratios.values > 0)] if len(ratios) else np.zeros(0)
        self.update_ratio = float(np.median(seen)) if len(seen) else math.nan


class _Program:
    """Makes trainings of copies, all on the same batches."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Any,
        loader: Iterable[Any],
        validation: Iterable[Any] | None,
        steps: int,
    ) -> None:
        self.tick: Callable[[], None] = lambda: None
        self._originals = model, optimizer, loss_fn
        self._loader, self._validation, self._steps = loader, validation, steps
        self._seed = torch.initial_seed()

    def run(self, remedy: Remedy | None, repeat: int) -> _Run:
        """Train one copy, with a remedy or without."""
        self._reseed(repeat)
        model, optimizer, loss_fn = copy_training(*self._originals)
        treatment = None if remedy is None else remedy.apply(model, optimizer, loss_fn)
        self._reseed(repeat)
        monitor = Monitor(model, None, watched_modules(model), ALL, (), Schedule(1.0, max(self._steps // 50, 1)))
        try:
            batches = endless(self._loader)
            run = _Run(self._train(model, optimizer, loss_fn, batches), monitor)
            if len(run.losses) == self._steps:
                run.loss = self._evaluate(model, batches)
            return run
        finally:
            monitor.close()
            if treatment is not None:
                treatment.undo()  # what it listens to

    def _reseed(self, repeat: int) -> None:
        seed = (self._seed + repeat) % 2**32
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # what users draw from

    def _train(self, model: nn.Module, optimizer: Optimizer, loss_fn: Any, batches: Iterator[Any]) -> list[float]:
        """Losses of the steps; fewer than asked for where one was not finite."""
        losses: list[float] = []
        for _ in range(self._steps):
            batch = on_device(next(batches), model)

            def closure(batch: Any = batch) -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, batch, loss_fn)
                loss.backward()
                return loss

            if isinstance(optimizer, torch.optim.LBFGS):
                value = float(optimizer.step(closure))
            else:
                value = float(closure().detach())
                optimizer.step()
            self.tick()
            if not math.isfinite(value):
                break
            losses.append(value)
        return losses

    def _evaluate(self, model: nn.Module, batches: Iterator[Any]) -> float:
        """Mean loss by the criterion as it was, without gradients and dropout; that of ``validation`` where given."""
        loss_fn = self._originals[2]
        chosen = self._validation if self._validation is not None else (next(batches) for _ in range(EVALUATED))
        model.eval()
        with torch.no_grad():
            losses = [float(loss_of(model, on_device(batch, model), loss_fn)) for batch in chosen]
        mean = sum(losses) / max(len(losses), 1)
        return mean if math.isfinite(mean) else math.inf


def _arm(remedy: Remedy | None, runs: Sequence[_Run], refused: str = "") -> Arm:
    if not runs:
        return Arm(remedy, refused=refused)
    length = min(len(run.losses) for run in runs)
    curve = tuple(sum(run.losses[step] for run in runs) / len(runs) for step in range(length))
    remaining = {
        finding.rule: None for run in runs for finding in run.verdict.findings if finding.severity >= Severity.WARNING
    }
    ratios = [run.update_ratio for run in runs if math.isfinite(run.update_ratio)]
    ratio = median(ratios) if ratios else math.nan
    return Arm(remedy, tuple(run.loss for run in runs), curve, ratio, tuple(remaining), refused)


def _check_memory(model: nn.Module, optimizer: Optimizer) -> None:
    """A copy takes the weights, their gradients and the optimizer's state once more."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    state = sum(
        v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values() if hasattr(v, "numel")
    )
    needed, free = 2 * weights + max(state, 2 * weights), torch.cuda.mem_get_info(device)[0]
    if needed > free:
        raise MemoryError(
            f"a trial needs {needed / 2**30:.1f} GiB for a copy, and {device} has {free / 2**30:.1f} free"
        )
