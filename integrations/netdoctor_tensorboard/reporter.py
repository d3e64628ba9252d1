"""The reporter: scalars, heat maps of the layers, the table of findings, and the HTML report beside the events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from netdoctor.reporters import Report
from netdoctor.reporters.digest import KEYS, LAYER_CHARTS, Scalars, findings_markdown, health, html_report
from netdoctor.reporters.heatmap import heat_map
from netdoctor.reporters.throttle import Growth
from netdoctor_tensorboard.picture import draw

PREFIX = "netdoctor/"
POINTS = 50  # of a statistic in one report at most: the loss is kept at every step
REPORT = "netdoctor-report.html"


class TensorBoardReporter:
    """Writes to the event file of a run, on the axis of optimizer steps.

    Args:
        writer: The program's own ``SummaryWriter``, of torch or of tensorboardX, which stays open; or the folder for a
            new one, by default the one that torch chooses below ``runs/``.
        keys: How many different scalars at most; of more layers than fit, evenly chosen ones are shown.
    """

    def __init__(self, writer: Any = None, *, keys: int = KEYS) -> None:
        self._writer: Any = None if writer is None or isinstance(writer, (str, os.PathLike)) else writer
        self._own = self._writer is None
        self._folder = None if writer is None or not self._own else os.fspath(writer)
        self._scalars = Scalars(keys)
        self._pictures = Growth()
        self._findings = ""
        self._health: dict[str, int | str] = {}

    def report(self, report: Report) -> None:
        """Write what is new."""
        self._show(report, self._pictures.ready(report.diagnosis.step))

    def close(self, report: Report) -> None:
        """Write the final state and the HTML report; close the writer if it is our own."""
        self._show(report, True)
        _write_report(self._writer, report)
        self._writer.flush()
        if self._own:
            self._writer.close()

    def _show(self, report: Report, pictures: bool) -> None:
        writer, step = self._open(), report.diagnosis.step
        for at, readings in self._scalars.take(report.history, POINTS).items():
            for key, value in readings.items():
                writer.add_scalar(PREFIX + key, value, at)
        if report.changes or pictures:
            self._show_findings(report)
        if pictures:
            for chart in LAYER_CHARTS:
                drawn = heat_map(report.history, chart)
                if drawn is not None:
                    picture = draw(drawn, report.findings)
                    writer.add_image(f"{PREFIX}layers/{chart.statistic}", picture, step, dataformats="HWC")

    def _show_findings(self, report: Report) -> None:
        table, state, step = findings_markdown(report), health(report), report.diagnosis.step
        if table != self._findings:
            self._findings = table
            self._writer.add_text(f"{PREFIX}findings", table, step)
        if state != self._health:
            self._health = state
            for name in ("errors", "warnings", "notes"):
                self._writer.add_scalar(PREFIX + name, state[name], step)

    def _open(self) -> Any:
        if self._writer is None:
            self._writer = SummaryWriter(self._folder)
            # One chart for all layers, in the tab "Custom Scalars"; a program's own writer may have charts there.
            charts = {chart.title: ["Multiline", [f"{PREFIX}{chart.statistic}/.*"]] for chart in LAYER_CHARTS}
            self._writer.add_custom_scalars({"netdoctor": charts})
        return self._writer


def _write_report(writer: Any, report: Report) -> None:
    """The report of the whole run, where the events are."""
    folder = str(getattr(writer, "log_dir", None) or getattr(writer, "logdir", ""))
    page = html_report(report) if folder and "://" not in folder else None  # no bucket
    if page is not None:
        (Path(folder) / REPORT).write_text(page, encoding="utf-8")
