"""The clinic's figures, as tables that the terminal and a page of the docs show alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table as Terminal

from netdoctor import Severity
from tests.clinic.examination import Result, Said

CONFIDENCES = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01)  # bounds of the bins of the reliability table


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> Terminal:
        table = Terminal(title=self.title, title_justify="left")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place else "left", no_wrap=not place)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def tables(results: Sequence[Result]) -> list[Table]:
    made = [summary(results), by_slug(results), reliability(results)]
    return [table for table in made if table.rows]


def summary(results: Sequence[Result]) -> Table:
    """One row a figure, one column a half."""
    halves = [[r for r in results if not half or r.half == half] for half in ("tune", "test", "")]
    sick = [[r for r in half if r.run.group == "sick"] for half in halves]
    rows: list[tuple[str, ...]] = []
    if sick[2]:
        located = [[r for r in half if r.right and r.layers] for half in sick]
        right = [[r for r in half if r.right] for half in sick]
        rows += [
            ("sick runs flagged", *(_share(bool(r.flags) for r in half) for half in sick)),
            ("sick runs with the right cause", *(_share(r.right for r in half) for half in sick)),
            ("… of these at the right layer", *(_share(r.right_layer for r in half) for half in located)),
            ("… of these in time", *(_share(r.in_time for r in half) for half in right)),
            ("other warnings a sick run", *(_mean(len(r.alarms) for r in half) for half in sick)),
        ]
    for group, name in (("healthy", "healthy runs"), ("twins", "healthy twins")):
        well = [[r for r in half if r.run.group == group] for half in halves]
        if well[2]:
            rows.append((f"{name} with a warning", *(_share(bool(r.alarms) for r in half) for half in well)))
    rows.append(
        ("runs in which a part of netdoctor failed", *(_share(bool(r.failures) for r in half) for half in halves))
    )
    rows.append(("seconds a run", *(_mean(r.seconds for r in half) for half in halves)))
    return Table("Figures", ("", "tune", "test", "all"), tuple(rows))


def by_slug(results: Sequence[Result]) -> Table:
    """One row a disease: its cases are those whose first accepted cause it is."""
    slugs = {cause: None for r in results for cause in r.causes[:1]}
    slugs.update({said.rule: None for r in results for said in r.alarms})
    rows = []
    for slug in sorted(slugs):
        own = [r for r in results if r.causes[:1] == (slug,)]
        right = [r for r in own if r.right]
        wrong = [r for r in results if any(said.rule == slug for said in r.alarms)]
        rows.append(
            (
                slug,
                str(len({r.run.case for r in own})),
                _share(r.right for r in own),
                _share(r.right_layer for r in right if r.layers),
                _share(r.in_time for r in right),
                str(sum(r.run.group == "sick" for r in wrong)),
                str(sum(r.run.group != "sick" for r in wrong)),
            )
        )
    columns = ("disease", "cases", "right cause", "right layer", "in time", "wrongly on sick runs", "on healthy runs")
    return Table("By disease", columns, tuple(rows))


def reliability(results: Sequence[Result]) -> Table:
    """How often a warning of some confidence names the fault: its confidence, if it is honest."""
    said = [
        (said.confidence, said.rule in r.causes)
        for r in results
        for said in r.said
        if said.severity >= Severity.WARNING
    ]
    rows = []
    for low, high in itertools.pairwise(CONFIDENCES):
        inside = [(confidence, right) for confidence, right in said if low <= confidence < high]
        if inside:
            stated = sum(confidence for confidence, _ in inside) / len(inside)
            rows.append(
                (f"{low:g} to {min(high, 1):g}", str(len(inside)), f"{stated:.0%}", _share(r for _, r in inside))
            )
    return Table("Confidence of warnings", ("stated", "warnings", "mean stated", "right"), tuple(rows))


def complaints(results: Iterable[Result]) -> list[str]:
    """One line a run that went wrong: what was said instead."""
    lines = []
    for r in sorted(results, key=lambda r: (r.run.group, r.run.case, r.run.seed)):
        faults = list(r.failures)
        if r.run.group == "sick":
            if not r.right:
                faults.append(f"no {' or '.join(r.causes)}")
            elif not r.right_layer:
                faults.append(f"wrong layer, guilty {', '.join(r.layers)}")
            elif not r.in_time:
                faults.append(f"late, after turn {r.by}")
        elif r.alarms:
            faults.append("false alarm")
        if faults:
            said = "; ".join(_said(one) for one in r.said) or "nothing"
            lines.append(f"{r.run.group} {r.run.case} {r.run.seed}: {', '.join(faults)}. Said: {said}")
    return lines


def _said(said: Said) -> str:
    where = f" {said.layers[0]}" if said.layers else ""
    gone = f", gone at {said.gone}" if said.gone else ""
    return f"{said.severity.name.lower()} {said.rule}{where} at {said.turn}{gone}"


def _share(values: Iterable[bool]) -> str:
    some = list(values)
    return f"{sum(some) / len(some):.0%} ({sum(some)}/{len(some)})" if some else "–"


def _mean(values: Iterable[float]) -> str:
    some = list(values)
    return f"{sum(some) / len(some):.2f}" if some else "–"
