"""A finding as it stands on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netdoctor.findings import Finding, Reading, Remedy, Severity
from netdoctor.reporters import Report
from netdoctor.reporters.html.evidence import Picture, picture_of
from netdoctor.reporters.html.naming import layer_named, titled
from netdoctor.reporters.html.numbers import spelled
from netdoctor.reporters.html.thumbnails import span
from netdoctor.rules import ALL

REACH = 3.0  # decades to either side of the bound that a reading's gauge shows
PARTS = ("Why it matters", "When it is wrong", "References")  # of a rule's page


@dataclass(frozen=True)
class Row:
    """A reading in words, and where it lies on a gauge with its bound in the middle: 0 to 1, None without a gauge."""

    name: str
    value: str
    bound: str
    unit: str
    steps: str
    place: float | None


@dataclass(frozen=True)
class Cure:
    """A remedy, and the line that carries it out, "" where it takes a hand or the run is over and gone."""

    remedy: Remedy
    apply: str


@dataclass(frozen=True)
class Card:
    """One finding.

    Attributes:
        anchor: Its place on the page.
        finding: The finding.
        title: Its rule's name as a title.
        since: Step at which it was raised.
        state: "" while it lasts, else what became of it.
        layers: Their names.
        rows: Its readings.
        cures: Its remedies.
        symptoms: What it explains.
        picture: Where its evidence is to be seen.
        span: First and last step that the picture should show, None where the readings do not say.
        about: Parts of its rule's page by heading.
    """

    anchor: str
    finding: Finding
    title: str
    since: int
    state: str
    layers: tuple[str, ...]
    rows: tuple[Row, ...]
    cures: tuple[Cure, ...]
    symptoms: tuple[Card, ...]
    picture: Picture | None
    span: list[int] | None
    about: dict[str, str]

    @property
    def severity(self) -> str:
        """As in "warning"."""
        return self.finding.severity.name.lower()


def cards(report: Report) -> tuple[Card, ...]:
    """What is wrong now, the worst first; then what was found before and not been taken back."""
    now = report.diagnosis.findings
    explained = {symptom.rule for finding in now for symptom in finding.symptoms}
    known = {finding.rule for finding in now} | explained
    gone = set(map(id, report.resolved))
    before = [f for f in report.findings if id(f) not in gone and f.rule not in known]
    before.sort(key=lambda finding: -finding.severity)
    return tuple(
        [_card(report, finding, f"finding-{place}") for place, finding in enumerate(now, 1)]
        + [
            _card(report, finding, f"finding-{place}", "not seen in the last diagnosis")
            for place, finding in enumerate(before, len(now) + 1)
        ]
    )


def gone(report: Report) -> tuple[Card, ...]:
    """What was found before and is gone, oldest first; what only moved under its cause is left out."""
    explained = {symptom.rule for finding in report.diagnosis.findings for symptom in finding.symptoms}
    left = [finding for finding in report.resolved if finding.rule not in explained]
    return tuple(_card(report, finding, f"gone-{place}", "gone") for place, finding in enumerate(left, 1))


def _card(report: Report, finding: Finding, anchor: str, state: str = "") -> Card:
    raised = [i for i, each in enumerate(report.findings) if each.rule == finding.rule]
    number = next((i for i in raised if report.findings[i] is finding), raised[-1] if raised else None)
    picture = picture_of(finding, report.history)
    symptoms = [_card(report, each, f"{anchor}-{place}") for place, each in enumerate(finding.symptoms, 1)]
    return Card(
        anchor=anchor,
        finding=finding,
        title=titled(finding.rule),
        since=finding.step if number is None else report.findings[number].step,
        state=state,
        layers=tuple(layer_named(name) for name in finding.layers),
        rows=tuple(_row(reading) for reading in finding.readings),
        cures=tuple(Cure(remedy, _applied(report, remedy, number, i)) for i, remedy in enumerate(finding.remedies)),
        symptoms=tuple(symptoms),
        picture=picture,
        span=_looked_at(finding, picture),
        about=_about(finding.rule),
    )


def _looked_at(finding: Finding, picture: Picture | None) -> list[int] | None:
    """The sample that the small picture shows, else the steps of the readings."""
    step = picture.small.get("step") if picture is not None and picture.small is not None else None
    return span(finding) if step is None else [step, step]


def _applied(report: Report, remedy: Remedy, number: int | None, place: int) -> str:
    if number is None or not remedy.applicable:
        return ""
    remedies = report.findings[number].remedies
    if place >= len(remedies) or not remedies[place].applicable:
        return ""
    return f"monitor.findings[{number}].remedies[{place}].apply(model, optimizer)"


def _row(reading: Reading) -> Row:
    first, last = reading.steps
    steps = "" if (first, last) == (0, 0) else f"{first:,}" if first == last else f"{first:,} … {last:,}"
    bound = "" if reading.bound is None else spelled(reading.bound)
    return Row(reading.name, spelled(reading.value), bound, reading.unit, steps, _place(reading))


def _place(reading: Reading) -> float | None:
    """By how many powers of ten the value is off its bound, on a scale from 0 to 1; the middle is the bound."""
    if reading.bound is None or not reading.bound or reading.value * reading.bound < 0:
        return None
    if not math.isfinite(reading.value) or not math.isfinite(reading.bound):
        return None
    off = math.log10(reading.value / reading.bound) if reading.value else -REACH
    return 0.5 + 0.5 * max(-1.0, min(1.0, off / REACH))


def _about(slug: str) -> dict[str, str]:
    rule = next((rule for rule in ALL if rule.slug == slug), None)
    if rule is None:
        return {}
    parts = {part.partition("\n")[0].strip(): part.partition("\n")[2] for part in rule.documentation.split("## ")}
    return {heading: " ".join(parts[heading].split()) for heading in PARTS if parts.get(heading, "").strip()}


def worst(shown: tuple[Card, ...]) -> Severity | None:
    """The highest severity among the cards."""
    return max((card.finding.severity for card in shown), default=None)
