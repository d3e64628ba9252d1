"""Where a diagnosis goes: anything with `report` and `close` is a reporter; no base class, no registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from netdoctor.findings import Diagnosis, Finding

if TYPE_CHECKING:  # the command line imports this before a program is to have imported numpy
    from netdoctor.history import History


@dataclass(frozen=True)
class Change:
    """One piece of news: a finding was raised, became worse, or is gone.

    ``number`` is the finding's place in ``monitor.findings``, counted from 1.
    """

    kind: Literal["raised", "worsened", "resolved"]
    finding: Finding
    number: int


@dataclass(frozen=True)
class Report:
    """What reporters are given.

    Attributes:
        diagnosis: The verdict now.
        changes: What is new since the last report; often nothing.
        findings: Every finding of the run so far, oldest first, resolved ones included.
        resolved: Those of ``findings`` that are gone.
        history: The numbers.
        overhead: Share of the training time that netdoctor took so far (0.01 is 1 %).
        seconds: The same in seconds.
    """

    diagnosis: Diagnosis
    changes: tuple[Change, ...]
    findings: tuple[Finding, ...]
    resolved: tuple[Finding, ...]
    history: History
    overhead: float
    seconds: float


class Reporter(Protocol):
    """Turns finished data into output, and nothing else.

    Either method may raise: training goes on, and the changes that the report held come again with a later one.
    """

    def report(self, report: Report) -> None:
        """Called after each diagnosis, whether there is news or not: every step at first, then at growing intervals."""

    def close(self, report: Report) -> None:
        """Called when the monitor closes, and once more if it raises; changes are in it only if `report` raised."""
