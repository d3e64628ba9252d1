"""Writes the news of a run as JSON lines, for scripts and agents. The format is described in docs/jsonl.md."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from netdoctor.reporters import Report
from netdoctor.reporters.digest import active, health

VERSION = 1  # of the format: raised when a field changes its meaning or goes; fields may be added without
FILE = "netdoctor.jsonl"


class JsonLines:
    """Appends an object to a file when the run starts and ends, and for each finding raised, worsened or resolved.

    A line is written whole and at once, so that a run that is killed leaves whole lines.

    Args:
        file: A path, by default ``netdoctor.jsonl`` in the working directory, or an open text file, which stays open.
    """

    def __init__(self, file: str | os.PathLike[str] | TextIO = FILE) -> None:
        self._path = Path(file).absolute() if isinstance(file, (str, os.PathLike)) else None
        self._stream = None if isinstance(file, (str, os.PathLike)) else file
        self._run = ""

    def report(self, report: Report) -> None:
        """Write a line for each change."""
        if not self._run:
            self._run = secrets.token_hex(4)
            self._write("started", report, model=report.history.facts.model)
        for change in report.changes:
            self._write(change.kind, report, number=change.number, finding=change.finding.to_dict())

    def close(self, report: Report) -> None:
        """Write the last line: how the run stands at its end."""
        self.report(report)
        state = health(report)
        judged = report.diagnosis.step > 0 or len(report.findings) > 0
        lasting = [report.findings.index(finding) + 1 for finding in active(report)]
        counts = {name: state[name] for name in ("errors", "warnings", "notes", "resolved")}
        self._write(
            "ended",
            report,
            healthy=report.diagnosis.healthy if judged else None,
            active=lasting,
            **counts,
            skipped=[skipped.to_dict() for skipped in report.diagnosis.skipped],
        )

    def _write(self, event: str, report: Report, **fields: Any) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = _line({"version": VERSION, "run": self._run, "time": now, "step": report.diagnosis.step,
                      "event": event, **fields})  # fmt: skip
        if self._stream is not None:
            self._stream.write(line)
            self._stream.flush()
        elif self._path is not None:
            with open(self._path, "ab", buffering=0) as file:  # one write: lines of several runs never mix
                file.write(line.encode())


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, allow_nan=False, separators=(",", ":")) + "\n"
