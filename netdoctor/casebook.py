"""Remembers what was said of a run, so that each finding is told once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from netdoctor.findings import Diagnosis, Finding
from netdoctor.reporters import Change

PATIENCE = 3  # diagnoses in a row without a finding until it counts as gone; doubles each time that it comes back


@dataclass
class _Case:
    """One entry: a finding from when it is raised until it is gone."""

    finding: Finding
    number: int
    patience: int
    absent: int = 0  # diagnoses in a row without it
    explains: set[str] = field(default_factory=set)  # rules seen as its symptoms
    resolved: bool = False


class Casebook:
    """Turns a series of diagnoses into news. A finding is known by its rule's slug.

    What comes and goes is told once: a finding is gone only after `PATIENCE` diagnoses in which its rule could judge
    and found nothing, one that returns must stay away twice as long, and what an active finding explains is not raised
    while that one lasts, unless it is more severe.
    """

    def __init__(self) -> None:
        self._cases: list[_Case] = []
        self._active: dict[str, _Case] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding raised so far, oldest first, resolved ones included."""
        return tuple(case.finding for case in self._cases)

    @property
    def resolved(self) -> tuple[Finding, ...]:
        """Those that are gone, or that a later finding explains."""
        return tuple(case.finding for case in self._cases if case.resolved)

    @property
    def active(self) -> tuple[Finding, ...]:
        """Those that last."""
        return tuple(case.finding for case in self._cases if not case.resolved)

    def expect(self, effects: Mapping[str, str]) -> None:
        """Let remedies, known by their action, be expected to have these effects."""
        for case in self._cases:
            case.finding = case.finding.expecting(effects)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values, for JSON."""
        return [
            {"finding": case.finding.to_dict(), "explains": sorted(case.explains), "resolved": case.resolved}
            for case in self._cases
        ]

    @classmethod
    def from_list(cls, cases: list[dict[str, Any]]) -> Casebook:
        """The inverse of `to_list`, from parsed JSON; how long a finding has been absent starts anew."""
        book = cls()
        for entry in cases:
            case = book._open(Finding.from_dict(entry["finding"]), set(entry["explains"]))
            if entry["resolved"]:
                book._resolve(case)
        return book

    def update(self, diagnosis: Diagnosis) -> tuple[Change, ...]:
        """The news in a diagnosis: raised and worsened findings in its order, then resolved ones."""
        present: dict[str, Finding] = {}
        for finding in diagnosis.findings:
            if finding.rule not in present or finding.severity > present[finding.rule].severity:
                present[finding.rule] = finding
        news = [change for finding in present.values() if (change := self._meet(finding))]

        explained = {symptom.rule for finding in present.values() for symptom in finding.symptoms}
        silent = {skipped.rule for skipped in diagnosis.skipped}
        for rule in [rule for rule in self._active if rule not in present]:
            case = self._active[rule]
            if rule in explained:
                self._resolve(case)
            elif rule not in silent:  # a rule that cannot judge does not say that all is well
                case.absent += 1
                if case.absent >= case.patience:
                    self._resolve(case)
                    news.append(Change("resolved", case.finding, case.number))
        return tuple(news)

    def _meet(self, finding: Finding) -> Change | None:
        symptoms = {symptom.rule for symptom in finding.symptoms}
        case = self._active.get(finding.rule)
        if case is not None:
            case.absent = 0
            case.explains |= symptoms
            if finding.severity <= case.finding.severity:
                return None
            case.finding = replace(finding, step=case.finding.step)
            return Change("worsened", case.finding, case.number)
        cause = self._cause(finding)
        if cause is not None:
            cause.explains |= symptoms
            return None
        return Change("raised", finding, self._open(finding, symptoms).number)

    def _open(self, finding: Finding, explains: set[str]) -> _Case:
        before = sum(known.finding.rule == finding.rule for known in self._cases)
        case = _Case(finding, len(self._cases) + 1, PATIENCE * 2**before, explains=explains)
        self._cases.append(case)
        self._active[finding.rule] = case
        return case

    def _cause(self, finding: Finding) -> _Case | None:
        for case in self._active.values():
            if finding.rule in case.explains and finding.severity <= case.finding.severity:
                return case
        return None

    def _resolve(self, case: _Case) -> None:
        case.resolved = True
        del self._active[case.finding.rule]
