"""The first words of the page: what is wrong, in how many findings, and what nobody could judge."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from netdoctor.findings import Severity, Skipped
from netdoctor.history import History
from netdoctor.reporters import Report
from netdoctor.reporters.html.cards import Card, worst
from netdoctor.reporters.html.naming import titled
from netdoctor.reporters.html.numbers import counted, share, spelled

NAMED = 2  # diseases in the headline


@dataclass(frozen=True)
class Verdict:
    """What stands at the top.

    Attributes:
        tone: healthy, note, warning, error or unknown.
        headline: The diagnosis.
        lead: The same in a sentence or two, with what could not be judged.
        facts: The run in a few labelled numbers.
    """

    tone: str
    headline: str
    lead: str
    facts: tuple[tuple[str, str, str], ...]


def verdict(report: Report, shown: tuple[Card, ...]) -> Verdict:
    highest = worst(shown)
    unjudged = len([each for each in report.diagnosis.skipped if each.rule])
    open_questions = f"{counted(unjudged, 'rule')} could not judge." if unjudged else ""
    facts = key_numbers(report)
    if highest is None and not report.diagnosis.step:
        return Verdict("unknown", "No verdict", f"No optimizer step was seen. {open_questions}".strip(), facts)
    steps = f"in {counted(report.diagnosis.step, 'step')}"
    if highest is None:
        return Verdict("healthy", "Nothing found", f"No sign of disease {steps}. {open_questions}".strip(), facts)
    weighty = [card for card in shown if card.finding.severity >= Severity.WARNING]
    lead = f"{_tally(shown)} {steps}. {open_questions}".strip()
    if not weighty:
        return Verdict("note", "Nothing serious", lead, facts)
    names = list(dict.fromkeys(card.title for card in weighty))
    headline = " and ".join([names[0], *(name[:1].lower() + name[1:] for name in names[1:NAMED])])
    if len(names) > NAMED:
        headline = f"{names[0]}, {names[1][:1].lower()}{names[1][1:]} and {len(names) - NAMED} more"
    return Verdict(highest.name.lower(), headline, lead, facts)


def _tally(shown: tuple[Card, ...]) -> str:
    counts = Counter(card.finding.severity for card in shown)
    parts = [counted(counts[severity], severity.name.lower()) for severity in sorted(counts, reverse=True)]
    symptoms = sum(len(card.symptoms) for card in shown)
    text = " and ".join(parts) if len(parts) < 3 else f"{parts[0]}, {parts[1]} and {parts[2]}"
    verb = "explains" if len(shown) == 1 else "explain"
    return text if not symptoms else f"{text} that {verb} {counted(symptoms, 'symptom')}"


def key_numbers(report: Report) -> tuple[tuple[str, str, str], ...]:
    """Label, number and remark of each."""
    history = report.history
    numbers = [("Steps", f"{max(report.diagnosis.step, history.step):,}", _sampled(history))]
    steps, losses = history.series("loss")
    if len(losses):
        numbers.append(("Training loss", spelled(float(losses[-1])), f"{spelled(float(losses[0]))} at the start"))
    steps, losses = history.series("val_loss")
    if len(losses):
        best = int(losses.argmin())
        remark = f"at step {steps[best]:,}; last {spelled(float(losses[-1]))}"
        numbers.append(("Best validation loss", spelled(float(losses[best])), remark))
    else:
        constants = history.series("constant_loss")[1]
        if len(constants):
            numbers.append(("Best constant prediction", spelled(float(constants[-1])), "the loss to beat"))
    if math.isfinite(report.overhead):
        numbers.append(("Cost of watching", share(report.overhead), f"{spelled(report.seconds, 2)} s in all"))
    return tuple(numbers)


def _sampled(history: History) -> str:
    table = history.table("weight_rms")
    samples = len(table) if table.stride == 1 else 0
    return f"{samples:,} of them sampled" if samples else ""


def unjudged(skipped: tuple[Skipped, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Reasons, and the rules that give each; what is no rule's is given by itself."""
    reasons: dict[str, list[str]] = {}
    for each in skipped:
        reasons.setdefault(" ".join(each.reason.split()), []).append(titled(each.rule) if each.rule else "")
    return tuple((reason, tuple(name for name in names if name)) for reason, names in reasons.items())
