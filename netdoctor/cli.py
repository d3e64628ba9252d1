"""The command `netdoctor`. What a command needs is imported when it runs: `netdoctor --version` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 the demo's remedy did not cure, 2 it could not run."""
    parser = argparse.ArgumentParser("netdoctor", description="The training doctor for PyTorch.")
    parser.add_argument("--version", action="version", version=f"netdoctor {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    rules = commands.add_parser("rules", help="list the diseases that netdoctor recognises")
    rules.set_defaults(run=lambda given: _rules())
    explain = commands.add_parser("explain", help="show the page of one disease")
    explain.add_argument("slug", metavar="SLUG", help="its name, such as vanishing-gradient")
    explain.set_defaults(run=lambda given: _explain(given.slug))
    demo = commands.add_parser("demo", help="train a small sick network and its cured twin")
    demo.set_defaults(run=lambda given: _demo())
    given = parser.parse_args(arguments)
    status: int = given.run(given)
    return status


def _version() -> str:
    try:
        return metadata.version("netdoctor-torch")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _rules() -> int:
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


def _explain(slug: str) -> int:
    from rich.console import Console
    from rich.markdown import Markdown

    from netdoctor.arguments import nearest
    from netdoctor.rules import ALL

    catalogue = {rule.slug: rule for rule in ALL}
    if slug not in catalogue:
        return _failed(str(nearest(slug, catalogue, "rule")))
    rule = catalogue[slug]
    page = [f"# {rule.slug}", f"Severity: {rule.severity.name}", rule.documentation]
    if rule.explains:
        page += ["## What it causes", ", ".join(rule.explains)]
    page += ["## How to silence it", f'`netdoctor.watch(model, ignore=["{rule.slug}"])`']
    console = Console()
    console.print(Markdown("\n\n".join(page)), width=min(console.width, 100))
    return 0


def _demo() -> int:
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
