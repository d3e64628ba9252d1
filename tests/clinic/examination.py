"""Runs one case with one seed under `netdoctor.watch`, and holds what was said against what is known."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

import netdoctor
from netdoctor import Severity
from netdoctor.reporters import Report
from tests.clinic.case import Case
from tests.clinic.catalogue import Run, case_of

TURN_SECONDS = 0.1  # of a real training: in a toy's hundredth of it the budget leaves no time for a diagnosis


@dataclass(frozen=True)
class Said:
    """One finding as raised at the top level.

    ``turn`` and ``gone`` are turns of the loop (0: it lasted); ``severity`` is the worst that the finding came to.
    """

    rule: str
    severity: Severity
    step: int
    turn: int
    layers: tuple[str, ...]
    confidence: float
    message: str
    gone: int = 0


@dataclass(frozen=True)
class Result:
    """What came out of one run.

    Attributes:
        said: Every finding, oldest first, notes included.
        loss: `Program.loss` after the last step.
        seconds: Duration of the watched steps.
        failures: Parts of netdoctor that failed.
    """

    run: Run
    half: str
    causes: tuple[str, ...]
    layers: tuple[str, ...]
    by: int
    bound: float
    miss: str
    note: bool
    said: tuple[Said, ...]
    loss: float
    seconds: float
    failures: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[Said, ...]:
        """What counts as an alarm: warnings and errors; notes too where the fault costs little."""
        least = Severity.NOTE if self.note else Severity.WARNING
        return tuple(said for said in self.said if said.severity >= least)

    @property
    def alarms(self) -> tuple[Said, ...]:
        """Warnings and errors that do not name the fault; on a healthy run these are all."""
        return tuple(said for said in self.said if said.severity >= Severity.WARNING and said.rule not in self.causes)

    @property
    def named(self) -> Said | None:
        """The first finding that names the fault rightly."""
        return next((said for said in self.flags if said.rule in self.causes), None)

    @property
    def right(self) -> bool:
        return self.named is not None

    @property
    def right_layer(self) -> bool:
        """Whether the first layer that the right finding names is guilty; true where none is."""
        named = self.named
        return named is not None and (not self.layers or (bool(named.layers) and named.layers[0] in self.layers))

    @property
    def in_time(self) -> bool:
        named = self.named
        return named is not None and named.turn <= self.by


class Listener:
    """A reporter that notes what is raised, worsened and gone, and at which turn of the loop."""

    def __init__(self) -> None:
        self.turn = 0
        self.raised: dict[int, Said] = {}
        self.failures: dict[str, None] = {}

    @property
    def said(self) -> tuple[Said, ...]:
        return tuple(self.raised[number] for number in sorted(self.raised))

    def report(self, report: Report) -> None:
        for change in report.changes:
            finding, known = change.finding, self.raised.get(change.number)
            self.raised[change.number] = Said(
                finding.rule,
                max(finding.severity, known.severity) if known else finding.severity,
                known.step if known else finding.step,
                known.turn if known else self.turn,
                known.layers if known else finding.layers,
                known.confidence if known else finding.confidence,
                known.message if known else finding.message,
                self.turn if change.kind == "resolved" else 0,
            )
        for skipped in report.diagnosis.skipped:
            if "failed:" in skipped.reason:
                self.failures[f"{skipped.rule} {skipped.reason}".strip()] = None

    def close(self, report: Report) -> None:
        for skipped in report.diagnosis.skipped:
            if "failed:" in skipped.reason:
                self.failures[skipped.reason] = None


def examine(
    run: Run, every: int | None = None, budget: float | None = None, turn_seconds: float = TURN_SECONDS
) -> Result:
    """Make one run under netdoctor's default settings, or with another ``every`` or ``budget``.

    On the clock by which netdoctor keeps to its budget, each turn takes ``turn_seconds`` longer than it does.
    """
    case = case_of(run)
    listener = Listener()
    torch.manual_seed(run.seed)
    program = case.build(run.group == "sick")
    options: dict[str, Any] = {} if budget is None else {"budget": budget}
    monitor = netdoctor.watch(program.model, reporters=[listener], every=every, **options)
    monitor._schedule.clock = lambda: perf_counter() + turn_seconds * listener.turn
    start = perf_counter()
    try:
        for turn in range(1, case.steps + 1):
            listener.turn = turn
            program.step(turn)
    finally:
        monitor.close()
    seconds = perf_counter() - start
    return result(run, case, listener.said, program.loss(), seconds, tuple(listener.failures))


def result(
    run: Run, case: Case, said: tuple[Said, ...], loss: float, seconds: float, failures: tuple[str, ...] = ()
) -> Result:
    sick = run.group == "sick"
    return Result(
        run,
        case.half,
        case.causes if sick else (),
        case.layers if sick else (),
        case.by,
        case.bound,
        case.miss,
        case.note and sick,
        said,
        loss,
        seconds,
        failures,
    )
