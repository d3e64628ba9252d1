"""Says in the terminal what is wrong: a block for each finding, a summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from netdoctor.facts import spoken
from netdoctor.findings import Finding, Remedy, Severity, Skipped
from netdoctor.reporters import Change, Report
from netdoctor.reporters.terminal import bars_cleared, terminal_for

WIDTH = 80  # columns at most, however wide the terminal: longer lines are hard to read
WIDE = 60  # columns from which the summary has room for the layers
CODE = 12  # lines of code at most in a block: more would bury the finding
REASONS = 3  # reasons at most that the summary gives for rules without a verdict
STYLES = {Severity.NOTE: "cyan", Severity.WARNING: "bold yellow", Severity.ERROR: "bold red"}
ASCII = {"…": "...", "→": "->", "×": "x", "−": "-", "–": "-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "σ": "std"}

Piece = tuple[str, str]  # text and its style


class Console:
    """Writes to a stream, by default to whatever ``sys.stderr`` is at that moment.

    Args:
        file: The stream; None for the standard error.
        width: Columns; None for those of the terminal, at most 80.
        monitor: What the monitor is called in the reader's program; "" where there is none to call anything on.

    Attributes:
        label: Stands before what is said, to tell several models of one program apart.
    """

    def __init__(self, file: IO[str] | None = None, width: int | None = None, monitor: str = "monitor") -> None:
        self.file = file
        self.width = width
        self.monitor = monitor
        self.label = ""

    def report(self, report: Report) -> None:
        """Write a block for each finding raised or worsened, a line for each that is gone."""
        if report.changes:
            self._write(lambda page: [news(page, change, report.diagnosis.step) for change in report.changes])

    def close(self, report: Report) -> None:
        """Write the summary of the run."""
        self.report(report)
        self._write(lambda page: summary(page, report))

    def show(self, report: Report) -> None:
        """Write a block for each finding that lasts, and the summary: a whole run at once."""
        numbered = enumerate(report.findings, start=1)
        lasting = tuple(Change("raised", found, number) for number, found in numbered if found not in report.resolved)
        self.close(replace(report, changes=lasting))

    def say(self, text: str) -> None:
        """Write a line of one's own, however long: it may hold a path."""
        self._write(lambda page: [Text.assemble(page.name, f"  {page.plain(text)}", no_wrap=True, overflow="ignore")])

    def _write(self, content: Callable[[_Page], Sequence[RenderableType]]) -> None:
        terminal, stream = terminal_for(self.file)
        page = _Page(terminal, self.width or min(WIDTH, terminal.width), self.label, self.monitor)
        with bars_cleared(stream):
            terminal.print(Group(*content(page)), crop=False)


@dataclass(frozen=True)
class _Page:
    """Lays out text in the columns and characters that there are."""

    terminal: Terminal
    width: int
    label: str
    monitor: str

    @property
    def name(self) -> Piece:
        """Who speaks, and of which model."""
        return f"netdoctor  {self.label}" if self.label else "netdoctor", "bold"

    def plain(self, text: str) -> str:
        """The text as the stream can show it; control characters, which could move the cursor, become "?"."""
        text = "".join(char if char.isprintable() else "?" for char in text.replace("\t", "    "))
        try:
            text.encode(self.terminal.encoding)
        except UnicodeEncodeError:
            text = "".join(ASCII.get(char, char) for char in text)
            text = text.encode(self.terminal.encoding, "replace").decode(self.terminal.encoding)
        return text

    def paragraph(self, *pieces: Piece, first: str = "", indent: int = 2) -> list[Text]:
        """Lines of the full width; ``first`` stands before the first one, ``indent`` spaces before the others."""
        text = Text.assemble(*((self.plain(content), style) for content, style in pieces))
        lines = list(text.wrap(self.terminal, max(self.width - indent, 10)))
        for line in lines:
            line.rstrip()
        return _indented(lines, first, indent)

    def code(self, source: str, first: str, indent: int) -> list[Text]:
        """Lines as they are, however long: what is broken cannot be pasted."""
        return _indented([Text(self.plain(line)) for line in source.rstrip().split("\n")], first, indent)


def _indented(lines: Sequence[Text], first: str, indent: int) -> list[Text]:
    return [Text.assemble((" " * indent if row else first, "dim"), line) for row, line in enumerate(lines)]


def _joined(lines: Sequence[Text]) -> Text:
    return Text("\n", no_wrap=True, overflow="ignore").join(lines)


def news(page: _Page, change: Change, step: int) -> Text:
    """What is said of one change; ``step`` is the present one."""
    finding = change.finding
    since = f"(raised at step {finding.step})"
    if change.kind == "resolved":
        return _joined(page.paragraph((f"{page.name[0]}  step {step}  resolved  {finding.rule}  {since}", "dim")))
    header = [
        page.name,
        (f"  step {finding.step if change.kind == 'raised' else step}  ", ""),
        (finding.severity.name, STYLES[finding.severity]),
        (f"  {finding.rule}", "bold"),
        (f"  {layers(finding)}" if finding.layers else "", ""),
        (f"  {since}" if change.kind == "worsened" else "", "dim"),
    ]
    message = " ".join(finding.message.split())
    if finding.severity == Severity.NOTE:
        return _joined(page.paragraph(*header, (f"  {message}", "")))
    return _joined([*page.paragraph(*header), *page.paragraph((message, ""), first="  "), *_advice(page, change)])


def _advice(page: _Page, change: Change) -> list[Text]:
    finding, place = change.finding, f"{page.monitor}.findings[{change.number - 1}].remedies[0]"
    remedy = finding.remedies[0] if finding.remedies else Remedy("")
    long = remedy.code.count("\n") >= CODE and page.monitor
    entries = [
        ("Remedy", remedy.action, False),
        ("Code", f"print({place}.code)" if long else remedy.code, True),
        ("Apply", f"{place}.apply(model, optimizer)" if remedy.applicable and page.monitor else "", True),
        ("Symptoms", ", ".join(dict.fromkeys(symptom.rule for symptom in finding.symptoms)), False),
        ("More", f"netdoctor explain {finding.rule}", True),
    ]
    column = max(len(label) for label, content, _ in entries if content) + 2
    lines: list[Text] = []
    for label, content, verbatim in entries:
        first = f"  {label:<{column}}"
        if content and verbatim:
            lines += page.code(content, first, column + 2)
        elif content:
            lines += page.paragraph((content, ""), first=first, indent=column + 2)
    return lines


def layers(finding: Finding) -> str:
    """The layers of a finding in a few words."""
    names = [spoken(name) for name in finding.layers]
    if len(names) <= 2:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]}" + (f" ({len(names)} layers)" if len(names) > 6 else "")


def summary(page: _Page, report: Report) -> list[RenderableType]:
    """What was found in the whole run, and what could not be judged."""
    step, count = report.diagnosis.step, len(report.findings)
    if not step and not count:
        return [_joined(page.paragraph(page.name, ("  No optimizer step was seen: no verdict.", "")))]
    watched = f"{_counted(step, 'step')} watched; cost {report.seconds:.2g} s, {report.overhead:.1%} of the time."
    unjudged = _unjudged(report.diagnosis.skipped)
    if not count:
        return [_joined(page.paragraph(page.name, (f"  Nothing found. {watched} {unjudged}", "")))]
    title = page.paragraph(page.name, (f"  {_counted(count, 'finding')}. {watched}", ""))
    last = [_joined(page.paragraph((unjudged, "dim")))] if unjudged else []
    return [_joined(title), Constrain(_table(page, report), page.width), *last]


def _table(page: _Page, report: Report) -> Table:
    explained = {symptom.rule for finding in report.diagnosis.findings for symptom in finding.symptoms}
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("Severity", no_wrap=True)
    table.add_column("Step", justify="right", no_wrap=True)
    table.add_column("Rule", overflow="fold")
    if page.width >= WIDE:
        table.add_column("Layers", overflow="fold")
    table.add_column("State", no_wrap=True)
    for finding in report.findings:
        gone = "symptom" if finding.rule in explained else "resolved"
        cells = [
            Text(finding.severity.name, STYLES[finding.severity]),
            Text(str(finding.step)),
            Text(page.plain(finding.rule)),
            *([Text(page.plain(layers(finding)))] if page.width >= WIDE else []),
            Text(gone, "dim") if finding in report.resolved else Text("active"),
        ]
        table.add_row(*cells)
    return table


def _unjudged(skipped: Sequence[Skipped]) -> str:
    """How many rules have no verdict, and the most frequent reasons."""
    rules = [entry for entry in skipped if entry.rule]
    reasons = Counter(" ".join(entry.reason.split()) for entry in rules).most_common()
    shown = [f"{_short(reason)} ({count})" for reason, count in reasons[:REASONS]]
    if reasons[REASONS:]:
        shown.append(f"other reasons ({sum(count for _, count in reasons[REASONS:])})")
    parts = [f"{_counted(len(rules), 'rule')} could not judge: {', '.join(shown)}."] if rules else []
    parts += [f"{_short(entry.reason)}." for entry in skipped if not entry.rule]
    return " ".join(parts)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _short(reason: str, length: int = 60) -> str:
    return reason if len(reason) <= length else reason[: length - 1].rstrip() + "…"
