"""What a history file keeps beside the numbers, so that a report can be made of a run that is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from netdoctor.casebook import Casebook
from netdoctor.diagnose import diagnose
from netdoctor.findings import Diagnosis, Skipped
from netdoctor.history import History, HistoryError
from netdoctor.reporters import Report
from netdoctor.rules import ALL
from netdoctor.rules.base import Rule


def context(casebook: Casebook, report: Report, rules: Iterable[Rule]) -> dict[str, Any]:
    """Plain values for `History.context`: what was found, which rules were left out or tuned, what failed, the cost."""
    asked = {rule.slug: rule for rule in rules}
    return {
        "step": report.diagnosis.step,
        "cases": casebook.to_list(),
        "ignored": [rule.slug for rule in ALL if rule.slug not in asked],
        "thresholds": {slug: dict(rule.thresholds) for slug, rule in asked.items() if rule.thresholds},
        "faults": [skipped.reason for skipped in report.diagnosis.skipped if not skipped.rule],
        "overhead": report.overhead,
        "seconds": report.seconds,
        "resumed": report.history.context.get("resumed", 0),
    }


def reopen(history: History) -> Report:
    """The verdict of the present rules on a saved run, with the findings that were raised while it ran.

    Asked are the rules of the run and those that have come since. ``changes`` holds what the run did not say.

    Raises:
        HistoryError: The context is damaged.
    """
    kept = history.context
    try:
        book = Casebook.from_list(kept.get("cases", []))
        rules = tuple(
            _tuned(rule, kept.get("thresholds", {})) for rule in ALL if rule.slug not in kept.get("ignored", ())
        )
        faults = tuple(Skipped(str(reason)) for reason in kept.get("faults", ()))
        step, overhead, seconds = (
            int(kept.get("step", 0)),
            float(kept.get("overhead", 0)),
            float(kept.get("seconds", 0)),
        )
    except Exception as error:  # the file may hold anything in place of what is read here
        raise HistoryError(f"what it says of the findings cannot be read: {type(error).__name__}: {error}") from error
    verdict = diagnose(history, rules)
    diagnosis = Diagnosis(step or verdict.step, verdict.findings, (*faults, *verdict.skipped))
    changes = book.update(diagnosis)
    return Report(diagnosis, changes, book.findings, book.resolved, history, overhead, seconds)


def _tuned(rule: Rule, thresholds: Mapping[str, Mapping[str, Any]]) -> Rule:
    try:
        return rule.tuned(**thresholds.get(rule.slug, {}))
    except TypeError:  # a threshold that the rule has no more
        return rule
