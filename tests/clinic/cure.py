"""Cures the sick: each case is watched until its fault is named, gets a remedy of the finding, and trains on.

A remedy cures where the loss then ends below the bound of the healthy twin. Training goes on for as many turns as the
twin has; a remedy that only helps from the start is applied to the program built anew. The remedies are also ranked as
`netdoctor.trial` does, by the loss after a short training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

import netdoctor
from netdoctor import Finding, Remedy, RemedyError, Severity
from netdoctor.trial_results import Arm, better, ranked
from tests.clinic.case import Case, Program
from tests.clinic.catalogue import Run, case_of
from tests.clinic.examination import TURN_SECONDS

SHORT = 100  # turns after which the remedies are ranked
LAST = 20  # losses at the end of these that count


@dataclass(frozen=True)
class Tried:
    """One remedy on one sick run.

    Attributes:
        action: The remedy's.
        refused: Why it was not applied, "" where it was.
        loss: `Program.loss` at the end.
        cured: Whether that is below the twin's bound.
        short: Validation loss, or else mean training loss, at the end of a short training; infinite where it was lost.
        findings: Slugs of the warnings and errors that remain then.
        unbounded: Whether it is for a loss by which a trial cannot compare.
        curve: Training losses of the short training.
    """

    action: str
    refused: str = ""
    loss: float = math.nan
    cured: bool = False
    short: float = math.inf
    findings: tuple[str, ...] = ()
    unbounded: bool = False
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cure:
    """What came of one sick run.

    Attributes:
        found: Slug of the finding that named the fault, "" where none did.
        tried: Its applicable remedies, the first first.
        by_hand: Actions of those that are not applicable.
        bound: Of the healthy twin; inf where the fault costs no loss.
        turn: Of the loop, at which the fault was found.
        untouched: The short training without a remedy.
    """

    run: Run
    found: str
    tried: tuple[Tried, ...]
    by_hand: tuple[str, ...]
    bound: float
    turn: int = 0
    untouched: Arm = field(default_factory=lambda: Arm(None))

    @property
    def first_cures(self) -> bool:
        return self.first is not None and self.first.cured

    @property
    def pick_cures(self) -> bool:
        return self.pick is not None and self.pick.cured

    @property
    def first(self) -> Tried | None:
        """The first remedy that could be applied."""
        return next((each for each in self.tried if not each.refused), None)

    @property
    def pick(self) -> Tried | None:
        """What a trial puts first; None where it finds nothing better than no remedy."""
        usable = [each for each in self.tried if not each.refused]
        arms = [
            Arm(
                Remedy(each.action, unbounded=each.unbounded),
                (each.short,),
                each.curve,
                findings=each.findings,
            )
            for each in usable
        ]
        best = next((arm for arm in ranked((*arms, self.untouched)) if better(arm, self.untouched)), None)
        if best is None:
            return None
        return next(each for each in usable if each.action == best.name)


def cure(run: Run) -> Cure:
    """Find, treat and train on, with each applicable remedy."""
    case = case_of(run)
    finding, turn = _find(case, run.seed)
    if finding is None:
        return Cure(run, "", (), (), case.bound)
    by_hand = tuple(remedy.action for remedy in finding.remedies if not remedy.applicable)
    places = [place for place, remedy in enumerate(finding.remedies) if remedy.applicable]
    start = 0 if any(finding.remedies[place].restart for place in places) else turn  # of all that are compared
    tried = tuple(_try(case, run.seed, turn, start, finding.remedies[place]) for place in places)
    untouched = Arm(None)
    if any(not each.refused for each in tried):
        program = _at(case, run.seed, start)
        loss, remaining, curve = _shortly(program, start, min(SHORT, case.steps))
        untouched = Arm(None, (loss,), curve, findings=remaining)
    return Cure(run, finding.rule, tried, by_hand, case.bound, turn, untouched)


def _find(case: Case, seed: int) -> tuple[Finding | None, int]:
    """The first finding that names the fault, as it was raised, and the turn at which it was."""
    torch.manual_seed(seed)
    program, turn = case.build(True), 0
    least = Severity.NOTE if case.note else Severity.WARNING
    monitor = netdoctor.watch(program.model, reporters=[])
    monitor._schedule.clock = lambda: time.perf_counter() + TURN_SECONDS * turn
    try:
        for turn in range(1, case.steps + 1):
            program.step(turn)
            for finding in monitor.findings:
                if finding.rule in case.causes and finding.severity >= least:
                    return finding, turn
    finally:
        monitor.close()
    found = (each for each in monitor.findings if each.rule in case.causes and each.severity >= least)
    return next(found, None), case.steps


def _at(case: Case, seed: int, turn: int) -> Program:
    """The sick program after so many turns, unwatched."""
    torch.manual_seed(seed)
    program = case.build(True)
    _train(program, 0, turn)
    return program


def _try(case: Case, seed: int, turn: int, start: int, remedy: Remedy) -> Tried:
    """Apply and train on; where the trial begins earlier than the remedy is due, a short training of its own."""
    turn = 0 if remedy.restart else turn
    short = min(SHORT, case.steps)
    program = _at(case, seed, turn)
    try:
        remedy.apply(program.model, program.optimizer)
        if start == turn:
            short_loss, remaining, curve = _shortly(program, start, short)
            _train(program, start + short, case.steps - short)
        else:
            _train(program, turn, case.steps)
            compared = _at(case, seed, start)
            remedy.apply(compared.model, compared.optimizer)
            short_loss, remaining, curve = _shortly(compared, start, short)
    except RemedyError as error:
        return Tried(remedy.action, str(error).splitlines()[0])
    loss = program.loss()
    return Tried(remedy.action, "", loss, loss < case.bound, short_loss, remaining, remedy.unbounded, curve)


def _train(program: Program, before: int, turns: int) -> None:
    for turn in range(before + 1, before + turns + 1):
        program.step(turn)


def _shortly(program: Program, before: int, turns: int) -> tuple[float, tuple[str, ...], tuple[float, ...]]:
    """Train, and tell what a trial compares: validation loss, or else mean loss, at the end; findings; all losses."""
    every = max(turns // 50, 1)
    with netdoctor.watch(program.model, reporters=[], every=every) as monitor, _noted_losses() as losses:
        _train(program, before, turns)
        validation = monitor.history.series("val_loss")[1]
        remaining = [each.rule for each in monitor.diagnose().findings if each.severity >= Severity.WARNING]
    return _end([float(validation[-1])] if len(validation) else losses), tuple(remaining), tuple(losses)


@contextmanager
def _noted_losses() -> Iterator[list[float]]:
    """The losses of the program's backward passes."""
    losses: list[float] = []
    backward = torch.Tensor.backward

    def noted(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        losses.append(float(self.detach().mean()))
        backward(self, *args, **kwargs)

    torch.Tensor.backward = noted  # type: ignore[method-assign]
    try:
        yield losses
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def _end(losses: list[float]) -> float:
    end = losses[-LAST:]
    mean = sum(end) / len(end) if end else math.inf
    return mean if math.isfinite(mean) else math.inf
