"""Stub."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.findings import Evidence, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(Severity.WARNING, explains=("loss-plateau", "not-learning"))
def covariate_shift(history: History) -> Iterator[Evidence | Skipped]:
    """Stub."""
    yield Skipped("not written yet")


FIRES: tuple[History, ...] = ()
QUIET: tuple[History, ...] = ()
