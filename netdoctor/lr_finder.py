"""The learning-rate range test: on a copy of the model the rate rises at each step until the loss is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from netdoctor import arguments, lr_criteria
from netdoctor.batches import endless, loss_of, on_device, repeatable
from netdoctor.copies import apart, copy_training
from netdoctor.lr_curve import LRCurve
from netdoctor.remedies.rate_factor import put

LOST = 4.0  # times the loss's fall so far, by which it may rise above its lowest before the test ends (fastai: 4x)
MEMORY = 0.9  # of the running mean that tells when to stop
QUIET = 10  # first steps, whose rates are too small to change anything: they tell the level and its noise
FALL = 3.0  # times the noise of the smoothed loss that it must fall by to say anything
RUNS = 6  # short runs at most


def find_lr(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: Any,
    optimizer: Optimizer,
    *,
    start: float = 1e-6,
    end: float = 10.0,
    steps: int = 100,
    tries: int = 50,
    progress: bool = True,
) -> LRCurve:
    """Find a learning rate for a model, new or half-trained, that itself stays as it is.

    The loss is lowest in the test where a step is about as large as can be borne once. From a quarter of that rate,
    short runs go up or down by two as long as that helps, and half of the best one is suggested: short runs favour
    large rates (Wu et al. 2018, Understanding short-horizon bias).

    Args:
        model: Copied, with its mode.
        loader: Batches; begun again where it ends before the test. What an iterator gives is kept for the short runs.
        loss_fn: ``loss_fn(model(inputs), target)``, ``loss_fn(model, batch)`` where its first argument is called
            ``model``, or None for models that return their loss.
        optimizer: Copied, with its state and all options but the rate; the rates of param groups keep their ratios.
        start: Learning rate of the first step.
        end: Of the last one; the test ends before it where the loss is lost.
        steps: Of the test at most.
        tries: Steps of each short run; 0 makes none, and a quarter of the rate of the lowest loss is suggested.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: Model or optimizer is none, or a batch has no form that ``loss_fn`` takes.
        ValueError: The rates do not rise, or something cannot be copied.
    """
    arguments.check_model(model)
    arguments.check_optimizer(optimizer)
    if not 0 < start < end or steps < 10:
        raise ValueError(f"the rate rises from start to end in 10 steps or more, got {start}, {end} and {steps}")
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS looks for the size of its steps itself: a range test says nothing of it")
    with apart(model, loader), Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("find_lr", total=steps + 3 * tries)
        generators, batches = torch.get_rng_state(), repeatable(loader)

        def runner() -> _Runner:
            torch.set_rng_state(generators)  # the same batches for each
            return _Runner(*copy_training(model, optimizer, loss_fn), endless(batches), lambda: bar.advance(task))

        sweep = runner()
        for index in range(steps):
            if not sweep.step(start * (end / start) ** (index / (steps - 1))):
                break
        return _judge(sweep, lambda rate: runner().run(rate, tries), tries, end)


class _Runner:
    """Training steps on a copy, each with a rate of its own."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, loss_fn: Any, batches: Any, tick: Callable[[], None]
    ) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.cosines: list[float] = []
        self.lost = False
        self._model, self._optimizer, self._loss_fn, self._batches, self._tick = (
            model,
            optimizer,
            loss_fn,
            batches,
            tick,
        )
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        first = float(optimizer.param_groups[0]["lr"])
        self._shares = [float(group["lr"]) / first if first else 1.0 for group in optimizer.param_groups]
        self._before: Tensor | None = None
        self._mean = 0.0
        self._lowest = math.inf

    def step(self, rate: float) -> bool:
        """One step; false once the loss is lost."""
        self._tick()
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            put(group, rate * share)
        self._optimizer.zero_grad()
        loss = loss_of(self._model, on_device(next(self._batches), self._model), self._loss_fn)
        loss.backward()
        value = loss.item()
        self.rates.append(rate)
        self.losses.append(value)
        self.cosines.append(self._cosine())
        self._mean = MEMORY * self._mean + (1 - MEMORY) * value
        mean = self._mean / (1 - MEMORY ** len(self.losses))
        self._lowest = min(self._lowest, mean)
        early = self.losses[:QUIET]
        fall = max(float(np.mean(early)) - self._lowest, float(np.std(early)), 0.1 * abs(early[0]))
        self.lost = not math.isfinite(value) or (
            len(self.losses) > QUIET and self.rates[0] < rate and mean - self._lowest > LOST * fall
        )
        if not self.lost:
            self._optimizer.step()
        return not self.lost

    def run(self, rate: float, steps: int) -> float:
        """So many steps at one rate: the mean loss of the last third, infinite where it was lost."""
        for _ in range(steps):
            if not self.step(rate):
                return math.inf
        return float(np.mean(self.losses[-max(steps // 3, 1) :]))

    def _cosine(self) -> float:
        """Of this step's gradient with the last one's, over all parameters."""
        given = [p.grad.detach().flatten().float() for p in self._parameters if p.grad is not None]
        flat = torch.cat(given) if given else torch.zeros(0)
        before, self._before = self._before, flat
        if before is None or before.shape != flat.shape or not len(flat):
            return math.nan
        return float(flat @ before / (flat.norm() * before.norm()).clamp_min(1e-30))


def _judge(sweep: _Runner, run: Callable[[float], float], tries: int, end: float) -> LRCurve:
    rates, losses = np.array(sweep.rates), np.array(sweep.losses)
    smoothed = lr_criteria.smooth(
        np.where(np.isfinite(losses), np.minimum(losses, losses[0] + 3 * abs(losses[0])), np.nan)
    )

    def curve(suggestion: float | None, reason: str, **more: Any) -> LRCurve:
        plain = [tuple(map(float, each)) for each in (rates, losses, smoothed, sweep.cosines)]
        return LRCurve(plain[0], plain[1], plain[2], plain[3], suggestion, reason, diverged=sweep.lost, **more)

    if not math.isfinite(losses[0]):
        return curve(None, "the loss of the first batch is not finite already")
    low = lr_criteria.lowest(smoothed)
    level, spread = float(np.mean(losses[:QUIET])), lr_criteria.noise(losses)
    fall = level - float(smoothed[low])
    if not fall > max(FALL * spread * lr_criteria.LEFT, 1e-3 * abs(level)):
        fell = f"the loss fell by {max(fall, 0.0):.2g} at most, where batches differ by {spread:.2g}"
        return curve(None, f"{fell}: no rate made it learn")
    points = {"steepest": lr_criteria.steepest(rates, smoothed), "valley": lr_criteria.valley(smoothed)}
    crossing = lr_criteria.quadratic(np.array(sweep.cosines))
    if crossing is not None:
        points["quadratic"] = crossing
    candidates = tuple((name, float(rates[index])) for name, index in points.items())
    best = float(rates[low])
    place = f"The loss is lowest at {best:.2g}" + (
        " and still falling there" if low >= len(rates) - 2 and best >= end / 2 else ""
    )
    if not tries:
        return curve(best / 4, f"{place}; a quarter of that can be borne at every step", candidates=candidates)
    tried = _descend(run, best / 4)
    chosen, reached = min(tried.items(), key=lambda entry: entry[1])
    sorted_runs = tuple(sorted(tried.items()))
    if not reached < losses[0]:
        return curve(
            None, f"{place}, but no run of {tries} steps kept it lower", candidates=candidates, tried=sorted_runs
        )
    said = ", ".join(f"{rate:.2g} to {loss:.3g}" for rate, loss in sorted_runs)
    reason = f"{place}. In {tries} steps it came with {said}; half of the best, since short runs favour large rates"
    return curve(chosen / 2, reason, candidates=candidates, tried=sorted_runs)


def _descend(run: Callable[[float], float], rate: float) -> dict[float, float]:
    """Losses of runs at ``rate`` and twice or half of it, on and on in the direction that helps."""
    tried = {rate: run(rate), rate / 2: run(rate / 2)}
    factor = 0.5 if tried[rate / 2] < tried[rate] else 2.0
    now = rate / 2 if factor < 1 else rate
    while len(tried) < RUNS:
        tried[now * factor] = run(now * factor)
        if not tried[now * factor] < tried[now]:
            break
        now *= factor
    return tried
