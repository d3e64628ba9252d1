"""What each command of `netdoctor` does, given its parsed arguments; returns the exit status."""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any


def run(given: argparse.Namespace) -> int:
    """Run a program and watch what it trains."""
    from netdoctor.running import program
    from netdoctor.running.run import run as run_program
    from netdoctor.running.session import Options

    start, words = (
        (program.run_module, given.module) if given.module is not None else (program.run_script, given.program)
    )
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        given.misuse("no program: name a script, or a module after -m")
    if given.report is not None and (missing := _missing_for_html()):
        return _failed(missing)
    options = Options(
        report=given.report,
        save=given.save,
        reporters=tuple(given.reporter or ("console",)),
        ignore=tuple(given.ignore),
        every=given.every,
        budget=given.budget,
        trial=given.trial,
        fail_on=given.fail_on,
    )
    try:
        return run_program(partial(start, words[0], words[1:]), options)
    except program.ProgramError as error:
        return _failed(str(error))


def report(given: argparse.Namespace) -> int:
    """Judge a saved run again: on the console, or as an HTML file."""
    from netdoctor.history import History, HistoryError
    from netdoctor.reopening import reopen
    from netdoctor.reporters.console import Console

    try:
        history = History.load(given.saved)
    except HistoryError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"can't open {given.saved}: {error.strerror}")
    try:
        judged = reopen(history)
    except HistoryError as error:
        return _failed(f"{given.saved} is damaged: {error}")
    if given.output is None:
        Console(sys.stdout, monitor="").show(judged)
        return 0
    if missing := _missing_for_html():
        return _failed(missing)
    html: Any = importlib.import_module("netdoctor.reporters.html")
    try:
        html.write(judged, given.output)
    except OSError as error:
        return _failed(f"can't write {given.output}: {error.strerror}")
    return 0


def _missing_for_html() -> str:
    """Why no HTML report can be written, "" where one can; imports nothing of it."""
    if find_spec("jinja2") is None or find_spec("netdoctor.reporters.html") is None:
        return "the HTML report needs jinja2: pip install 'netdoctor-torch[html]'"
    return ""


def rules(given: argparse.Namespace) -> int:
    """List the catalogue."""
    from rich.console import Console
    from rich.table import Table

    from netdoctor.rules import ALL

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("Rule", no_wrap=True)
    table.add_column("Severity", no_wrap=True)
    table.add_column("Disease")
    for rule in ALL:
        table.add_row(rule.slug, rule.severity.name, rule.summary)
    Console().print(table)
    return 0


def explain(given: argparse.Namespace) -> int:
    """Show the page of one rule."""
    from rich.console import Console
    from rich.markdown import Markdown

    from netdoctor.rules import ALL
    from netdoctor.spelling import nearest

    catalogue = {rule.slug: rule for rule in ALL}
    if given.slug not in catalogue:
        return _failed(str(nearest(given.slug, catalogue, "rule")))
    rule = catalogue[given.slug]
    page = [f"# {rule.slug}", f"Severity: {rule.severity.name}", rule.documentation]
    if rule.explains:
        page += ["## What it causes", ", ".join(rule.explains)]
    silence = f'`netdoctor.watch(model, ignore=["{rule.slug}"])`, or `netdoctor run --ignore {rule.slug}`'
    page += ["## How to silence it", silence]
    console = Console()
    console.print(Markdown("\n\n".join(page)), width=min(console.width, 100))
    return 0


def demo(given: argparse.Namespace) -> int:
    """Train a sick network and its cured twin."""
    try:
        from netdoctor import demo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        return _failed("the demo needs scikit-learn: pip install scikit-learn")
    return demo.main()


def _failed(why: str) -> int:
    print(f"netdoctor: {why}", file=sys.stderr)
    return 2
