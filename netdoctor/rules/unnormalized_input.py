"""Stub."""

from __future__ import annotations

from collections.abc import Iterator

from netdoctor.findings import Evidence, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules.base import rule


@rule(
    Severity.WARNING,
    explains=(
        "poor-initialization",
        "learning-rate-too-large",
        "exploding-gradient",
        "non-finite",
        "saturated-units",
        "dead-units",
        "covariate-shift",
        "loss-plateau",
        "not-learning",
    ),
)
def unnormalized_input(history: History) -> Iterator[Evidence | Skipped]:
    """Stub."""
    yield Skipped("not written yet")


FIRES: tuple[History, ...] = ()
QUIET: tuple[History, ...] = ()
