"""The reporter: metrics, tags to search by, and artifacts: the findings, the heat maps, the HTML report."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import mlflow
from mlflow.entities import Metric, RunTag

from netdoctor.reporters import Report
from netdoctor.reporters.digest import (
    FINDING_COLUMNS,
    KEYS,
    Scalars,
    finding_rows,
    findings_markdown,
    health,
    html_report,
)
from netdoctor.reporters.layers_page import layers_page
from netdoctor.reporters.throttle import Growth, Throttle

PREFIX = "netdoctor/"
UNDER_WAY = 50  # requests at most that are not waited for
BATCH = 1000  # metrics of a request at most: MLflow's limit

log = logging.getLogger("netdoctor")


class MLflowReporter:
    """Logs to a run, in the background, on the axis of optimizer steps.

    Args:
        run_id: Of the run; by default the active one at the first report.
        keys: How many different metrics at most; of more layers than fit, evenly chosen ones are logged.
        seconds: Between two requests in the long run.
        client: Of the server that the run is on; by default that of ``mlflow.set_tracking_uri``.
    """

    def __init__(
        self,
        run_id: str | None = None,
        *,
        keys: int = KEYS,
        seconds: float = 10.0,
        client: mlflow.MlflowClient | None = None,
    ) -> None:
        self._run_id = run_id
        self._client: Any = client if run_id is not None else None
        self._scalars = Scalars(keys)
        self._points = max(BATCH // keys, 1)  # of a statistic in one request: the loss is kept at every step
        self._throttle = Throttle(seconds)
        self._pages = Growth()
        self._health: dict[str, int | str] = {}
        self._background = True
        self._sent: deque[Any] = deque()  # the latest requests
        self._warned = False

    def report(self, report: Report) -> None:
        """Log what is new, at a bounded rate."""
        if not self._find():
            return
        state = health(report)
        if state != self._health:
            self._log_findings(report, state)
        if self._pages.ready(report.diagnosis.step):
            self._log_text(layers_page(report), "layers.html")
        if self._throttle.ready():
            self._log_scalars(report)

    def close(self, report: Report) -> None:
        """Log the final state and the HTML report, and wait until all is logged."""
        if not self._find():
            return
        self._background = False  # at the end of a program no thread can be started any more
        self._log_scalars(report)
        self._log_findings(report, health(report))
        self._log_text(layers_page(report), "layers.html")
        page = html_report(report)
        if page is not None:
            self._log_text(page, "report.html")
        for request in self._sent:
            request.wait()

    def _find(self) -> bool:
        """Whether there is a run to log to; one that ended still takes what comes."""
        if self._client is None:
            active = mlflow.active_run() if self._run_id is None else None
            self._run_id = active.info.run_id if active is not None else self._run_id
            if self._run_id is not None:
                self._client = mlflow.MlflowClient()
            elif not self._warned:
                self._warned = True
                log.warning(
                    'the reporter "mlflow" finds no active run and logs nothing until there is one: '
                    "call mlflow.start_run()"
                )
        return self._client is not None

    def _log_scalars(self, report: Report) -> None:
        now = time.time_ns() // 1_000_000
        metrics = [
            Metric(PREFIX + key, value, now, step)
            for step, readings in self._scalars.take(report.history, self._points).items()
            for key, value in readings.items()
        ]
        for at in range(0, len(metrics), BATCH):
            self._log_batch(metrics[at : at + BATCH])

    def _log_findings(self, report: Report, state: dict[str, int | str]) -> None:
        """The findings as text and as a table, and counts of them to search runs by."""
        self._health = state
        now, step = time.time_ns() // 1_000_000, report.diagnosis.step
        counts = [Metric(PREFIX + name, float(state[name]), now, step) for name in ("errors", "warnings", "notes")]
        self._log_batch(counts, [RunTag("netdoctor.worst", str(state["worst"]))])
        self._log_text(findings_markdown(report), "findings.md")
        table = {"columns": list(FINDING_COLUMNS), "data": [list(row) for row in finding_rows(report)]}
        self._client.log_dict(self._run_id, table, f"{PREFIX}findings.json")

    def _log_batch(self, metrics: Sequence[Metric], tags: Sequence[RunTag] = ()) -> None:
        if not self._background:
            self._client.log_batch(self._run_id, metrics, tags=tags)
            return
        while len(self._sent) >= UNDER_WAY:
            self._sent.popleft().wait()
        self._sent.append(self._client.log_batch(self._run_id, metrics, tags=tags, synchronous=False))

    def _log_text(self, text: str, name: str) -> None:
        self._client.log_text(self._run_id, text, PREFIX + name)
