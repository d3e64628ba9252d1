"""logit-growth: its own histories; the real runs are those of attention-collapse, which it explains."""

from __future__ import annotations

import pytest

from netdoctor.findings import Evidence, Severity
from netdoctor.history import History
from netdoctor.rules.logit_growth import fires, logit_growth, quiet


def found(history: History) -> list[Evidence]:
    return [each for each in logit_growth(history) if isinstance(each, Evidence)]


def test_a_warning_where_nothing_is_learned_or_no_more_and_a_note_where_the_model_learns():
    severities = [found(history)[0].severity for history in fires()]
    assert severities == [None, None, Severity.NOTE]


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History):
    assert not found(history)
