"""Writes the HTML report of a run to a file at its end; the page is made by `netdoctor.reporters.html`."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from pathlib import Path

from netdoctor.reporters import Report

NEEDED = ("jinja2", "plotly")  # the extra "html"


class HtmlFile:
    """Writes to ``path`` when the run ends.

    Attributes:
        path: The file.
        complete: Whether it has been written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # the program may change its working directory
        self.complete = False

    def report(self, report: Report) -> None:
        """Nothing yet."""

    def close(self, report: Report) -> None:
        """Write the report."""
        write(report, self.path)
        self.complete = True


def write(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the HTML report; what it needs is imported only now."""
    importlib.import_module("netdoctor.reporters.html").write(report, path)


def missing() -> str:
    """Why no HTML report can be written, "" where one can; imports nothing of it."""
    absent = [name for name in NEEDED if find_spec(name) is None]
    if not absent:
        return ""
    return f"the HTML report needs {' and '.join(absent)}: pip install 'netdoctor-torch[html]'"
