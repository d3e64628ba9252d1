"""Twins of one model that take a few training steps in turn, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]
TURN = 0.05  # seconds of steps of one twin in turn: hooking into torch anew slows the next step down
WARM_UP = 50  # steps before counting: netdoctor samples densely there


class Twin:
    """One copy of the model with its optimizer, and a clock that runs during its own steps only."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.seconds = 0.0
        self.started = 0.0

    def clock(self) -> float:
        return self.seconds + perf_counter() - self.started

    def step(self, x: torch.Tensor, y: torch.Tensor, then: Callable[[torch.Tensor], object] | None) -> float:
        """Seconds of one training step, and of what the watching asks the loop to do ``then``."""
        self.started = perf_counter()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        if then is not None:
            then(loss)
        taken = perf_counter() - self.started
        self.seconds += taken
        return taken


@dataclass
class Watching:
    """How a twin is watched.

    Attributes:
        resume: Called before each of its steps, untimed: what hooks into torch as a whole does so for these steps only.
        pause: Called after each of them, untimed.
        then: Called at the end of each step with the loss, timed: lines that the user would have to add to the loop.
        finish: Ends the watching; the steps that were sampled, from 1.
    """

    resume: Callable[[], object] = lambda: None
    pause: Callable[[], object] = lambda: None
    then: Callable[[torch.Tensor], object] | None = None
    finish: Callable[[], set[int]] = field(default=set[int])


Start = Callable[[Twin], Watching]


@dataclass(frozen=True)
class Times:
    """Of each counted step of one twin: its seconds, those of the unwatched one, and whether it was sampled."""

    watched: Array
    unwatched: Array
    sampled: NDArray[np.bool_]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Median ratio of sampled and of other steps, weighted by their shares, with its 95 % bootstrap interval.

        A rare sampled step counts in full, a hiccup of the machine does not.
        """
        return _weighted(self.watched / self.unwatched, self.sampled)

    @property
    def added(self) -> tuple[float, float, float]:
        """Seconds that a sampled step takes longer, all steps where none is marked: median and 95 % interval."""
        chosen = self.sampled if self.sampled.any() else np.ones_like(self.sampled)
        differences = (self.watched - self.unwatched)[chosen]
        return _weighted(differences, np.ones(len(differences), np.bool_))


def measure(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, starts: Mapping[str, Start], steps: int
) -> dict[str, Times]:
    """Times of the twin of each setting, beside one unwatched twin."""
    twins = {key: Twin(model) for key in ("", *starts)}
    watchings = {"": Watching()}
    for key, start in starts.items():
        watchings[key] = start(twins[key])
        watchings[key].pause()
    times: dict[str, list[float]] = {key: [] for key in twins}
    keys = list(twins)
    in_turn = 1
    while len(times[""]) < WARM_UP + steps:
        keys = keys[1:] + keys[:1]  # nobody always runs first
        for key in keys:
            watchings[key].resume()
            times[key] += [twins[key].step(x, y, watchings[key].then) for _ in range(in_turn)]
            watchings[key].pause()
        if len(times[""]) == WARM_UP:
            in_turn = max(1, int(TURN / np.median(times[""])))
    counted = np.arange(WARM_UP + 1, len(times[""]) + 1)
    arrays = {key: np.array(values[WARM_UP:]) for key, values in times.items()}
    sampled = {key: np.isin(counted, list(watchings[key].finish())) for key in starts}
    return {key: Times(arrays[key], arrays[""], sampled[key]) for key in starts}


def _weighted(values: Array, kind: NDArray[np.bool_]) -> tuple[float, float, float]:
    random = np.random.default_rng(0)
    total = np.zeros(2001)  # the estimate, then the resampled ones
    for some in (values[kind], values[~kind]):
        if len(some):
            picks = random.integers(0, len(some), (2000, len(some)))
            medians = np.concatenate(([np.median(some)], np.median(some[picks], axis=1)))
            total += medians * len(some) / len(values)
    low, high = np.percentile(total[1:], (2.5, 97.5))
    return float(total[0]), float(low), float(high)
