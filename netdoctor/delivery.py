"""Brings each reporter what it has to know, however often it fails: news is kept until it has been taken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import perf_counter

from netdoctor.reporters import Change, Report, Reporter

log = logging.getLogger("netdoctor")

SHARE = 0.01  # of the time that a failing reporter may take
LONGEST = 60.0  # seconds between two tries at most, where trying costs next to nothing


class Delivery:
    """Calls the reporters; none of their faults gets out.

    What a reporter failed to take, it is given again with the next report. One that goes on failing is tried ever more
    rarely: after 0, 1, 3, 7 … 60 seconds, and so that its tries stay below `SHARE` of the time.

    Args:
        reporters: Whom to tell.
        clock: Tells the time in seconds.
    """

    def __init__(self, reporters: Iterable[Reporter], clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._subscribers = [_Subscriber(reporter, clock) for reporter in reporters]

    def add(self, reporter: Reporter) -> None:
        """Tell this one, too, from now on."""
        self._subscribers.append(_Subscriber(reporter, self._clock))

    @property
    def faults(self) -> dict[str, str]:
        """Why the reporters that fail at present do so, by their names."""
        return {subscriber.name: subscriber.fault for subscriber in self._subscribers if subscriber.fault}

    def report(self, report: Report) -> None:
        """Tell everyone who is not to be left in peace for now."""
        for subscriber in self._subscribers:
            subscriber.report(report)

    def close(self, report: Report) -> tuple[str, ...]:
        """Tell everyone what is left and that this is the end; returns what could not be told, one sentence each."""
        return tuple(loss for subscriber in self._subscribers if (loss := subscriber.close(report)))


class _Subscriber:
    """A reporter and what it has not taken yet."""

    def __init__(self, reporter: Reporter, clock: Callable[[], float]) -> None:
        self.name = type(reporter).__name__
        self.fault = ""
        self._reporter = reporter
        self._clock = clock
        self._missed: tuple[Change, ...] = ()
        self._failures = 0  # in a row
        self._next_try = -float("inf")
        self._told = False

    def report(self, report: Report) -> None:
        self._missed += report.changes
        if self._clock() >= self._next_try:
            self._call(self._reporter.report, report)

    def close(self, report: Report) -> str:
        self._missed += report.changes
        if self._missed:
            self._call(self._reporter.report, report)
        untaken = self._missed
        if self._call(self._reporter.close, report) or self._call(self._reporter.close, report):
            return ""
        rules = ", ".join(dict.fromkeys(change.finding.rule for change in untaken))
        lost = f"was not told of {rules} and could not be closed" if rules else "could not be closed"
        return f"the reporter {self.name} {lost} ({self.fault})"

    def _call(self, call: Callable[[Report], None], report: Report) -> bool:
        start = self._clock()
        try:
            call(replace(report, changes=self._missed))
        except Exception as error:  # noqa: BLE001  # a full disk or a dead server must not end the training
            self._failed(error, self._clock() - start)
            return False
        self._missed, self._failures, self.fault = (), 0, ""
        return True

    def _failed(self, error: Exception, seconds: float) -> None:
        patience = min(2.0**self._failures - 1, LONGEST)
        self._failures = min(self._failures + 1, 10)
        self._next_try = self._clock() + max(patience, seconds / SHARE)
        self.fault = f"{type(error).__name__}: {error}"
        if not self._told:
            self._told = True
            log.warning("the reporter %s failed and will be given its news again: %s", self.name, self.fault)
            log.debug("where it failed", exc_info=error)
