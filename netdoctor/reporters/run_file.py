"""Keeps the history of a run in a file while it goes on: a process that is killed leaves what was saved last."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from netdoctor.history import History
from netdoctor.reporters import Report

INTERVAL = 30.0  # seconds between two saves at least
SHARE = 0.002  # of the time that saving may take


class RunFile:
    """Saves to ``path``, now and then and at the end; `netdoctor report` reads it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # the program may change its working directory
        self._next = time.monotonic() + INTERVAL

    def report(self, report: Report) -> None:
        """Save if it is time."""
        start = time.monotonic()
        if start >= self._next:
            report.history.save(self.path)
            end = time.monotonic()
            self._next = end + max(INTERVAL, (end - start) / SHARE)

    def close(self, report: Report) -> None:
        """Save."""
        report.history.save(self.path)


def save_aside(history: History) -> Path:
    """Save to a new file of the working directory, or of the temporary one where that is not possible."""
    name = time.strftime("netdoctor-%Y%m%d-%H%M%S")
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        path = folder / f"{name}.npz"
        for number in range(2, 100):
            if not path.exists():
                break
            path = folder / f"{name}-{number}.npz"
        try:
            history.save(path)
        except OSError:
            continue
        return path
    raise OSError(f"neither {Path.cwd()} nor {tempfile.gettempdir()} can be written to")
