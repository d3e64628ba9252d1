"""When and where the page is written."""

from __future__ import annotations

import os
from math import nan
from pathlib import Path
from time import monotonic, perf_counter

from netdoctor.findings import Diagnosis
from netdoctor.history import History
from netdoctor.reporters import Report
from netdoctor.reporters.html import page

PAUSE = 30.0  # seconds between two pages at least, so that a run of hours is followed and a run of minutes not slowed
SHARE = 0.002  # of the time that writing pages during the run may take


class Html:
    """Writes the page when the monitor closes, and now and then before.

    Args:
        path: The file; replaced by each newer page, whole or not at all.

    Raises:
        ImportError: jinja2 is not there; says what to install.
    """

    def __init__(self, path: str | os.PathLike[str] = "netdoctor-report.html") -> None:
        page.environment()
        self.path = Path(path).absolute()  # of the folder where the training began
        self._next = monotonic() + PAUSE

    def report(self, report: Report) -> None:
        """Write the page if the last one is old enough."""
        if monotonic() < self._next:
            return
        start = perf_counter()
        try:
            write(report, self.path)
        finally:
            self._next = monotonic() + max(PAUSE, (perf_counter() - start) / SHARE)

    def close(self, report: Report) -> None:
        """Write the page of the whole run."""
        write(report, self.path)


def write(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page to exactly ``path``, whole or not at all, and return the path; missing folders are made.

    Raises:
        ImportError: jinja2 is not there; says what to install.
        OSError: The file cannot be written.
    """
    path = Path(path)
    text = page.render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # lone surrogates in a layer's name
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path


def saved(history: History, diagnosis: Diagnosis) -> Report:
    """What there is to report of a saved run: its numbers and the verdict on them; what watching cost is not known."""
    return Report(diagnosis, (), (), (), history, nan, nan)
