"""What a notebook shows of a finding, a diagnosis and a monitor: plain markup, no script, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netdoctor.findings import Diagnosis, Finding, Reading, Remedy

LOOKS = {  # severity: sign and colour, the latter with contrast on white and on black
    "ERROR": ("✖", "#d5504a"),
    "WARNING": ("▲", "#b97d00"),
    "NOTE": ("●", "#3f83c6"),
    "HEALTHY": ("✔", "#2b9b6e"),
}
FAINT = "opacity:.75"
CELL = "padding:.1em 1.2em .1em 0;text-align:left"


def finding_html(finding: Finding) -> str:
    """The message, with readings, remedies and symptoms to unfold."""
    sign, color = LOOKS[finding.severity.name]
    about = [
        finding.severity.name.lower(),
        f"step {finding.step}",
        f"{finding.confidence:.0%} confident",
        *_layers(finding),
    ]
    parts = [
        f'<div><span style="color:{color}">{sign}</span> <b>{escape(finding.rule)}</b> '
        f'<span style="{FAINT}">{escape(" · ".join(about))}</span></div>',
        f"<div>{escape(finding.message)}</div>",
    ]
    if finding.readings:
        parts.append(_folded("Evidence", _readings(finding.readings)))
    parts += [_folded(f"Remedy: {remedy.action}", _remedy(remedy)) for remedy in finding.remedies]
    if finding.symptoms:
        inside = "".join(finding_html(symptom) for symptom in finding.symptoms)
        parts.append(_folded(f"Explains {len(finding.symptoms)} more", inside))
    return f'<div style="border-left:3px solid {color};padding:.3em 0 .3em .9em;margin:.6em 0">{"".join(parts)}</div>'


def diagnosis_html(diagnosis: Diagnosis) -> str:
    """The verdict, the findings, and what could not be judged."""
    inside = "".join(finding_html(finding) for finding in diagnosis.findings)
    if diagnosis.skipped:
        reasons = ((each.rule or "netdoctor", each.reason) for each in diagnosis.skipped)
        inside += _folded(f"{len(diagnosis.skipped)} not judged", _table(reasons))
    return f'<div style="max-width:56em">{_verdict(diagnosis)}{inside}</div>'


def monitor_html(model: str, overhead: float, diagnosis: Diagnosis) -> str:
    """The model that is watched, at what cost, and the verdict now."""
    head = f"<b>netdoctor</b> watches <b>{escape(model)}</b> at {overhead:.1%} of the training time"
    return f"<div>{head}</div>{diagnosis_html(diagnosis)}"


def _verdict(diagnosis: Diagnosis) -> str:
    if not diagnosis.step and not diagnosis.findings:
        return f'<div style="{FAINT}">No optimizer step was seen: no verdict.</div>'
    if diagnosis.findings:
        count = len(diagnosis.findings)
        return f"<div>{count} finding{'' if count == 1 else 's'} at step {diagnosis.step}</div>"
    sign, color = LOOKS["HEALTHY"]
    return f'<div><span style="color:{color}">{sign}</span> Nothing found in {diagnosis.step} steps</div>'


def _layers(finding: Finding) -> list[str]:
    names = [name or "the model" for name in finding.layers]
    return names if len(names) < 3 else [f"{names[0]} … {names[-1]} ({len(names)} layers)"]


def _readings(readings: Iterable[Reading]) -> str:
    rows = []
    for reading in readings:
        bound = "" if reading.bound is None else f"against {reading.bound:.3g}"
        rows.append((reading.name, f"{reading.value:.3g} {reading.unit}".strip(), bound))
    return _table(rows)


def _remedy(remedy: Remedy) -> str:
    code = f'<pre style="margin:.3em 0;overflow-x:auto">{escape(remedy.code)}</pre>' if remedy.code else ""
    words = [f"Expect: {remedy.effect}." if remedy.effect else "", remedy.source]
    return f'{code}<div style="{FAINT}">{escape(" ".join(word for word in words if word))}</div>'


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    lines = ("".join(f'<td style="{CELL}">{escape(cell)}</td>' for cell in row) for row in rows)
    return f'<table style="margin:.3em 0">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def _folded(title: str, inside: str) -> str:
    return f'<details><summary style="cursor:pointer">{escape(title)}</summary>{inside}</details>'
