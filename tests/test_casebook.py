"""What a user is told over a series of diagnoses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdoctor.casebook import PATIENCE, Casebook
from netdoctor.findings import Diagnosis, Finding, Severity, Skipped

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


def found(rule: str, *symptoms: str, severity: Severity = WARNING, step: int = 1) -> Finding:
    under = tuple(found(symptom, severity=NOTE, step=step) for symptom in symptoms)
    return Finding(rule, severity, step, f"{rule} at step {step}", symptoms=under)


def told(book: Casebook, *findings: Finding, unable: tuple[str, ...] = ()) -> list[str]:
    diagnosis = Diagnosis(1, findings, tuple(Skipped("too early", rule) for rule in unable))
    return [f"{change.kind} {change.finding.rule} {change.number}" for change in book.update(diagnosis)]


def slugs(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.rule for finding in findings]


def test_a_finding_is_told_once_while_it_lasts() -> None:
    book = Casebook()
    assert told(book, found("dead-units")) == ["raised dead-units 1"]
    for step in range(2, 10):
        assert told(book, found("dead-units", step=step)) == []
    assert book.findings == (found("dead-units", step=1),)


def test_findings_are_numbered_in_the_order_in_which_they_are_raised() -> None:
    book = Casebook()
    assert told(book, found("b"), found("a")) == ["raised b 1", "raised a 2"]
    assert told(book, found("c"), found("b"), found("a")) == ["raised c 3"]
    assert slugs(book.findings) == ["b", "a", "c"]


def test_a_worse_finding_replaces_the_first_and_keeps_its_number_and_step() -> None:
    book = Casebook()
    told(book, found("x", severity=ERROR), found("dead-units", step=5))
    (change,) = book.update(Diagnosis(9, (found("x"), found("dead-units", severity=ERROR, step=9))))
    assert (change.kind, change.number) == ("worsened", 2)
    assert change.finding == book.findings[1]
    assert (change.finding.severity, change.finding.step) == (ERROR, 5)
    assert change.finding.message == "dead-units at step 9"


def test_a_severity_that_flickers_is_told_once() -> None:
    book = Casebook()
    said = []
    for severity in (WARNING, ERROR) * 6:
        said += told(book, found("a", severity=severity))
    assert said == ["raised a 1", "worsened a 1"]


def test_a_finding_is_gone_after_patience_diagnoses_without_it() -> None:
    book = Casebook()
    told(book, found("a"))
    assert [told(book) for _ in range(PATIENCE + 2)] == [[]] * (PATIENCE - 1) + [["resolved a 1"]] + [[]] * 2
    assert slugs(book.findings) == slugs(book.resolved) == ["a"]
    assert book.active == ()


@pytest.mark.parametrize("quiet", range(1, PATIENCE))
def test_a_rule_that_flickers_is_told_once(quiet: int) -> None:
    book = Casebook()
    said = []
    for _ in range(50):
        said += told(book, found("a"))
        for _ in range(quiet):
            said += told(book)
    assert said == ["raised a 1"]


def test_a_rule_that_keeps_coming_back_must_stay_away_longer_each_time() -> None:
    book = Casebook()
    said = []
    for _ in range(100):
        said += told(book, found("a"))
        for _ in range(PATIENCE):
            said += told(book)
    assert said == ["raised a 1", "resolved a 1", "raised a 2"]


def test_a_finding_that_returns_is_a_new_entry() -> None:
    book = Casebook()
    told(book, found("a", step=1))
    for _ in range(PATIENCE):
        told(book)
    assert told(book, found("a", step=7)) == ["raised a 2"]
    assert [finding.step for finding in book.findings] == [1, 7]
    assert [finding.step for finding in book.resolved] == [1]
    assert [finding.step for finding in book.active] == [7]


def test_a_rule_that_cannot_judge_has_not_resolved_its_finding() -> None:
    book = Casebook()
    told(book, found("a"))
    for _ in range(5 * PATIENCE):
        assert told(book, unable=("a",)) == []
    assert slugs(book.active) == ["a"]


def test_a_symptom_is_not_raised_on_its_own() -> None:
    book = Casebook()
    assert told(book, found("cause", "symptom")) == ["raised cause 1"]
    assert slugs(book.findings) == ["cause"]


def test_a_finding_whose_cause_appears_is_closed_without_a_word() -> None:
    book = Casebook()
    assert told(book, found("symptom")) == ["raised symptom 1"]
    assert told(book, found("cause", "symptom")) == ["raised cause 2"]
    assert (slugs(book.active), slugs(book.resolved)) == (["cause"], ["symptom"])
    for _ in range(2 * PATIENCE):
        assert told(book, found("cause", "symptom")) == []


def test_a_cause_that_flickers_does_not_make_its_symptom_flicker() -> None:
    book = Casebook()
    said = []
    for _ in range(20):
        said += told(book, found("cause", "symptom"))
        said += told(book, found("symptom"))
    assert said == ["raised cause 1"]


def test_a_symptom_that_outlives_its_cause_is_raised() -> None:
    book = Casebook()
    told(book, found("cause", "symptom"))
    said = [told(book, found("symptom")) for _ in range(PATIENCE + 1)]
    assert said[-2:] == [["resolved cause 1"], ["raised symptom 2"]]


def test_a_symptom_more_severe_than_its_absent_cause_is_raised() -> None:
    book = Casebook()
    told(book, found("cause", "symptom"))
    assert told(book, found("symptom", severity=ERROR)) == ["raised symptom 2"]


def test_several_findings_of_one_rule_are_one_entry_the_most_severe() -> None:
    book = Casebook()
    assert told(book, found("a"), found("a", severity=ERROR), found("a", severity=NOTE)) == ["raised a 1"]
    assert book.findings[0].severity == ERROR


RULES = "abcd"
FINDINGS = st.builds(
    lambda rule, symptoms, severity: found(rule, *symptoms, severity=severity),
    st.sampled_from(RULES),
    st.lists(st.sampled_from(RULES), max_size=2, unique=True),
    st.sampled_from(Severity),
)
DIAGNOSES = st.builds(
    lambda step, findings, unable: Diagnosis(step, tuple(findings), tuple(Skipped("?", rule) for rule in unable)),
    st.integers(1, 1000),
    st.lists(FINDINGS, max_size=4),
    st.lists(st.sampled_from(RULES), max_size=2),
)


@given(st.lists(DIAGNOSES, max_size=40))
def test_in_any_series_the_news_and_the_book_agree(diagnoses: list[Diagnosis]) -> None:
    book = Casebook()
    for diagnosis in diagnoses:
        before = book.active
        changes = book.update(diagnosis)
        active = {finding.rule: finding for finding in before}
        for change in changes:
            rule = change.finding.rule
            assert book.findings[change.number - 1] == change.finding
            if change.kind == "raised":
                assert rule not in active  # never raised twice while active
            elif change.kind == "worsened":
                assert change.finding.severity > active[rule].severity
            else:
                assert rule in active
                assert rule not in slugs(book.active)
        assert len({(change.kind, change.finding.rule) for change in changes}) == len(changes)
        assert len(set(slugs(book.active))) == len(book.active)
        assert sorted(slugs(book.active) + slugs(book.resolved)) == sorted(slugs(book.findings))
