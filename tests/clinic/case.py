"""What a case of the clinic is: a real training program with a known fault, and the same program without it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer


@dataclass
class Program:
    """One training run, as a user would write it.

    Attributes:
        model: What is watched. Remedies change it in place, so ``step`` and ``loss`` use this very object.
        optimizer: What remedies are applied to.
        step: ``step(i)`` is turn ``i`` of the user's loop, from 1: forward, backward, optimizer step, and whatever else
            the loop does at that turn, a validation pass for one.
        loss: Called once after the last step, unwatched: what tells whether the training worked, computed without the
            fault (the proper loss, properly scaled data), mostly on the training set.
    """

    model: nn.Module
    optimizer: Optimizer
    step: Callable[[int], object]
    loss: Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One case. A sick case with ``fault=False`` is its healthy twin.

    Attributes:
        name: That of its function, with hyphens.
        build: ``build(fault)`` makes the program; torch's generator has been seeded before.
        steps: Turns of the loop.
        causes: Slugs of the findings that name the fault rightly; empty for a healthy case.
        layers: Names of the guilty layers; empty where none is.
        by: Turn of the loop by which a right finding must have been said.
        bound: ``Program.loss`` stays below it in healthy runs and their twins, and above it in sick ones (inf: the
            fault costs no loss).
        miss: Why netdoctor cannot get this case right yet; "" where it does.
        note: Whether a note that names the fault is enough: it costs little or nothing.
    """

    name: str
    build: Callable[[bool], Program]
    steps: int
    causes: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    by: int = 0
    bound: float = float("inf")
    miss: str = ""
    note: bool = False

    @property
    def half(self) -> str:
        """Thresholds are tuned on the one half, "tune", and the bar holds for the other, "test", too."""
        return "tune" if hashlib.sha256(self.name.encode()).digest()[0] % 2 else "test"


def sick(
    *causes: str,
    steps: int,
    by: int,
    bound: float = float("inf"),
    layers: tuple[str, ...] = (),
    miss: str = "",
    note: bool = False,
) -> Callable[[Callable[[bool], Program]], Case]:
    """Make ``build(fault)`` a case with a fault that any of ``causes`` names rightly."""

    def wrap(build: Callable[[bool], Program]) -> Case:
        return Case(_name(build), build, steps, causes, layers, by, bound, miss, note)

    return wrap


def healthy(*, steps: int, bound: float, miss: str = "") -> Callable[[Callable[[], Program]], Case]:
    """Make ``build()`` a case in which there is nothing to say."""

    def wrap(build: Callable[[], Program]) -> Case:
        return Case(_name(build), lambda fault: build(), steps, bound=bound, miss=miss)

    return wrap


def _name(build: Callable[..., Program]) -> str:
    return build.__name__.replace("_", "-")
