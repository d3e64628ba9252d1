"""Asks every rule, puts symptoms under their causes, the worst first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from netdoctor.findings import Diagnosis, Evidence, Finding, Skipped
from netdoctor.history import History
from netdoctor.rules import ALL
from netdoctor.rules.base import Rule


def diagnose(history: History, rules: Iterable[Rule] = ALL) -> Diagnosis:
    """The verdict on a history.

    A rule that fails is reported as skipped with its exception: one faulty rule never silences the others.

    Args:
        history: Of a run that goes on or of a saved one.
        rules: The rules to ask.
    """
    asked = tuple(rules)
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for rule in asked:
        try:
            answers = rule(history)
        except Exception as error:  # noqa: BLE001  # a rule's fault must not end the user's training
            skipped.append(Skipped(f"failed: {type(error).__name__}: {error}", rule.slug))
            continue
        for answer in answers:
            if isinstance(answer, Skipped):
                skipped.append(replace(answer, rule=rule.slug))
            else:
                findings.append(_finding(rule, answer, history.step))
    return Diagnosis(history.step, _join(findings, asked), tuple(skipped))


def _finding(rule: Rule, evidence: Evidence, step: int) -> Finding:
    return Finding(
        rule=rule.slug,
        severity=evidence.severity or rule.severity,
        step=step,
        message=evidence.message,
        layers=evidence.layers,
        readings=evidence.readings,
        confidence=evidence.confidence,
        remedies=evidence.remedies,
    )


def _join(findings: list[Finding], rules: tuple[Rule, ...]) -> tuple[Finding, ...]:
    """Each finding that another one explains goes under the most confident of these, and lends it its severity.

    Only a rule further up in the catalogue can be a cause, so there are no circles.
    """
    if not findings:
        return ()
    explains = {rule.slug: set(rule.explains) for rule in rules}
    place = {rule.slug: index for index, rule in enumerate(rules)}
    symptoms: dict[str, list[Finding]] = {}
    joined: list[Finding] = []
    for finding in sorted(findings, key=lambda finding: -place[finding.rule]):  # symptoms before their causes
        own = symptoms.pop(finding.rule, [])
        severity = max((finding.severity, *(symptom.severity for symptom in own)))
        finding = replace(finding, symptoms=tuple(own), severity=severity)
        causes = [c for c in findings if finding.rule in explains[c.rule] and place[c.rule] < place[finding.rule]]
        if causes:
            cause = max(causes, key=lambda cause: cause.confidence)
            symptoms.setdefault(cause.rule, []).extend((replace(finding, symptoms=()), *finding.symptoms))
        else:
            joined.append(finding)
    return tuple(sorted(joined, key=lambda finding: (-finding.severity, -finding.confidence, place[finding.rule])))
