"""One W&B run as netdoctor writes to it."""

from __future__ import annotations

import atexit
import logging
import math
from typing import Any

import wandb

from netdoctor.findings import Finding, Severity
from netdoctor.reporters import Report
from netdoctor.reporters.digest import FINDING_COLUMNS, LAYER_CHARTS, Scalars, finding_rows, health, html_report
from netdoctor.reporters.layers_page import layers_page
from netdoctor.reporters.throttle import Growth, Throttle
from netdoctor_wandb.teardown import before_finish

PREFIX = "netdoctor/"
STEP = "netdoctor/step"
OF_LAYERS = {chart.statistic for chart in LAYER_CHARTS}
ROWS = 100  # of each statistic at most, that a run gets at its end where nobody else logged

log = logging.getLogger("netdoctor")


class Session:
    """Writes to one run.

    A row of W&B's history belongs to whoever calls ``log`` with a step or without ``commit=False``: the program. What
    netdoctor logs is put on the row that is open at that time. Where the program never logs, that row stays open, and
    the rows are written when the run ends, after which nobody can log.

    Attributes:
        run: The run.
        over: Whether it takes nothing any more.
    """

    def __init__(self, run: wandb.Run, keys: int, seconds: float, commit: bool) -> None:
        self.run = run
        self.over = run.disabled
        self._commit = commit
        self._scalars = Scalars(keys)
        self._throttle = Throttle(seconds)
        self._defined: set[str] = set()
        self._alerted: set[int] = set()  # numbers of findings
        self._rows: list[tuple[Any, ...]] = []  # of the table of findings, as it was shown
        self._health: dict[str, int | str] = {}
        self._pages = Growth()  # each is a file of 50 KB
        self._report_page: str | None = None
        self._latest: Report | None = None
        self._complete = False  # whether the final state was shown
        if self.over:
            return
        self._start = _row(run)
        self._offset = _steps_before(run)  # a resumed run goes on where it stopped
        self._at_end = before_finish(run, self._end)
        atexit.register(self._end)
        run.define_metric(STEP, hidden=True)

    def show(self, report: Report) -> None:
        """Log what is new, in one call at most."""
        self._take(report)
        self._say(report)
        payload = self._findings(report)
        if self._pages.ready(report.diagnosis.step):
            payload |= self._page(report)
        if payload or self._throttle.ready():
            payload |= self._newest(report)
        self._log(payload, report.diagnosis.step)

    def show_last(self, report: Report) -> None:
        """Log the final state."""
        self._take(report)
        self._final(report)
        if not self._at_end:
            self._end()

    def _take(self, report: Report) -> None:
        self._latest = report
        if report.history.context.get("resumed"):
            self._offset = 0  # the monitor, resumed too, counts on by itself

    def _final(self, report: Report) -> None:
        self._complete = True
        self._say(report)
        payload = {**self._newest(report), **self._findings(report), **self._page(report), **self._html(report)}
        self._log(payload, report.diagnosis.step)

    def _log(self, payload: dict[str, Any], step: int, commit: bool | None = None) -> None:
        if not payload:
            return
        for key in payload.keys() - self._defined:
            name = key.replace(".", "\\.")  # else W&B takes it for the path in a nested dict
            summary = "none" if isinstance(payload[key], float) else None
            hidden = key.split("/")[1] in OF_LAYERS  # else each of them gets a panel by itself
            self.run.define_metric(name, step_metric=STEP, summary=summary, hidden=hidden)
            self._defined.add(key)
        self.run.log({STEP: self._offset + step, **payload}, commit=self._commit if commit is None else commit)

    def _newest(self, report: Report) -> dict[str, Any]:
        """The latest reading of each scalar that has a new one."""
        payload: dict[str, Any] = {}
        for readings in self._scalars.take(report.history, most=1).values():
            payload |= {PREFIX + key: value for key, value in readings.items()}
        return payload

    def _findings(self, report: Report) -> dict[str, Any]:
        rows: list[tuple[Any, ...]] = list(finding_rows(report)) if report.findings else []
        if rows == self._rows:
            return {}
        self._rows = rows
        return {f"{PREFIX}findings": wandb.Table(columns=list(FINDING_COLUMNS), data=[list(row) for row in rows])}

    def _page(self, report: Report) -> dict[str, Any]:
        return {f"{PREFIX}layers": wandb.Html(layers_page(report), inject=False)}

    def _html(self, report: Report) -> dict[str, Any]:
        if self._report_page is None:
            self._report_page = html_report(report)
        return {} if self._report_page is None else {f"{PREFIX}report": wandb.Html(self._report_page, inject=False)}

    def _say(self, report: Report) -> None:
        """Keep the health in the summary up to date, send an alert for each error."""
        state = health(report)
        if state != self._health:
            self._health = state
            self.run.summary.update({PREFIX + name: value for name, value in state.items()})
        for number, finding in enumerate(report.findings, 1):
            if finding.severity >= Severity.ERROR and number not in self._alerted:
                self._alerted.add(number)
                self.run.alert(f"netdoctor: {finding.rule}"[:63], _alert(finding), "ERROR")

    def _end(self) -> None:
        """The run or the program ends: show what was not shown yet."""
        if self.over:
            return
        self.over = True
        report, self._latest = self._latest, None
        atexit.unregister(self._end)
        try:
            if report is not None and not self._commit and self._start is not None and _row(self.run) == self._start:
                self._fill(report)
                self._final(report)
            elif report is not None and not self._complete:
                self._final(report)
        except Exception as error:  # must not keep the run from ending
            log.warning("the last report to W&B failed", exc_info=error)

    def _fill(self, report: Report) -> None:
        """Nobody logged: make rows of the history. The open row becomes the first."""
        self._scalars.again()
        rows = self._scalars.take(report.history, ROWS)
        unseen: dict[str, Any] = {
            key: math.nan for key in self._defined if key.removeprefix(PREFIX) in self._scalars.keys
        }
        for step, readings in rows.items():
            self._log({**unseen, **{PREFIX + key: value for key, value in readings.items()}}, step, commit=True)
            unseen = {}
        self._rows = []  # shown once more, on the last row


def _row(run: wandb.Run) -> int | None:
    """Number of the row that is open; None where W&B does not tell."""
    try:
        return run.step
    except Exception:  # noqa: BLE001  # runs that several processes write to have none
        return None


def _steps_before(run: wandb.Run) -> int:
    if not run.resumed:
        return 0
    before: Any = dict(run.summary).get(STEP, 0)
    return int(before) if isinstance(before, (int, float)) else 0


def _alert(finding: Finding) -> str:
    remedy = f"\nRemedy: {finding.remedies[0].action}" if finding.remedies else ""
    return f"Step {finding.step}: {finding.message}{remedy}\nMore: netdoctor explain {finding.rule}"
