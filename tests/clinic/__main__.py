"""Measures netdoctor on the clinic: ``python -m tests.clinic --help``."""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.clinic import peers
from tests.clinic.catalogue import Group, Run, runs
from tests.clinic.checkups import check_up, checkup_tables, missed
from tests.clinic.cure import cure
from tests.clinic.cure_table import cure_tables, uncured
from tests.clinic.examination import TURN_SECONDS, Result, examine
from tests.clinic.pool import each
from tests.clinic.table import Table, complaints, tables

WIDTH = 120  # columns where the output is no terminal
GROUPS: tuple[Group, ...] = ("sick", "twins", "healthy")


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.clinic", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each case (default 5)")
    parser.add_argument("--cases", nargs="*", default=(), metavar="PATTERN", help="of names or causes of cases")
    parser.add_argument("--only", choices=GROUPS, help="the sick runs, their twins, or the healthy runs")
    parser.add_argument(
        "--half", choices=("tune", "test"), default="", help="that thresholds are tuned on, or the other"
    )
    parser.add_argument("--every", type=int, help="sample every so many steps instead of keeping to the budget")
    parser.add_argument("--budget", type=float, help="share of the time that netdoctor may take instead of its default")
    parser.add_argument(
        "--turn-seconds",
        type=float,
        default=TURN_SECONDS,
        help="that a turn takes longer on the clock that the budget goes by (default 0.1): these models are toys",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each (default 2)")
    parser.add_argument(
        "--peers", action="store_true", help="also run other packages that do this job, where installed"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables as Markdown, as to docs/clinic.md")
    parser.add_argument("-v", "--verbose", action="store_true", help="what was said in every run")
    parser.add_argument("--checkup", action="store_true", help="examine all programs before their first step")
    parser.add_argument("--cure", action="store_true", help="apply what the findings advise, and train on")
    arguments = parser.parse_args()

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDTH)
    if arguments.checkup:
        return _checked_up(arguments, console)
    if arguments.cure:
        return _cured(arguments, console)
    groups: tuple[Group, ...] = (arguments.only,) if arguments.only else GROUPS
    chosen = runs(arguments.seeds, groups, tuple(arguments.cases), arguments.half)
    settings = {"every": arguments.every, "budget": arguments.budget, "turn_seconds": arguments.turn_seconds}
    task = functools.partial(examine, **settings)
    results = _examined(task, chosen, arguments.jobs, console, "netdoctor")
    made = tables(results)
    if arguments.peers:
        made.append(_compared(results, chosen, arguments.jobs, console))
    for table in made:
        console.print(table.rich())
    wrong = complaints(results)
    console.print("\n".join(wrong), markup=False, highlight=False, soft_wrap=True)
    if arguments.verbose:
        for result in results:
            for said in result.said:
                line = (
                    f"{result.run.case} {result.run.seed} {said.turn}: {said.severity.name} {said.rule} {said.message}"
                )
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(_page(made, wrong, arguments))
    return len(wrong)


def _checked_up(arguments: argparse.Namespace, console: Console) -> int:
    groups: tuple[Group, ...] = (arguments.only,) if arguments.only else GROUPS
    chosen = runs(arguments.seeds, groups, tuple(arguments.cases), arguments.half)
    progress = track(each(check_up, chosen, arguments.jobs), "checkups", len(chosen), console=console, transient=True)
    checkups = sorted((done for _, done in progress), key=lambda done: chosen.index(done.run))
    for table in checkup_tables(checkups):
        console.print(table.rich())
    lines = list(missed(checkups))
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return len(lines)


def _cured(arguments: argparse.Namespace, console: Console) -> int:
    chosen = runs(arguments.seeds, ("sick",), tuple(arguments.cases), arguments.half)
    progress = track(each(cure, chosen, arguments.jobs), "cures", len(chosen), console=console, transient=True)
    cures = sorted((done for _, done in progress), key=lambda done: chosen.index(done.run))
    for table in cure_tables(cures):
        console.print(table.rich())
    lines = list(uncured(cures, arguments.verbose))
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return len(lines)


def _examined(
    task: functools.partial[Result], chosen: list[Run], jobs: int, console: Console, name: str
) -> list[Result]:
    progress = track(each(task, chosen, jobs), name, len(chosen), console=console, transient=True)
    return [result for _, result in progress]


def _compared(results: list[Result], chosen: list[Run], jobs: int, console: Console) -> Table:
    rows = [peers.row("netdoctor", results)]
    for name, peer in peers.PEERS.items():
        reason = peers.missing(name)
        if reason:
            rows.append((name, *[""] * (len(peers.COLUMNS) - 2), reason))
        else:
            rows.append(
                peers.row(name, _examined(functools.partial(peers.examine, name), chosen, jobs, console, name), peer)
            )
    return Table("Other packages on the same runs", peers.COLUMNS, tuple(rows))


def _page(made: list[Table], wrong: list[str], arguments: argparse.Namespace) -> str:
    commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=True).stdout
    options = [f"`{name}={value}`" for name in ("every", "budget") if (value := getattr(arguments, name)) is not None]
    settings = " and ".join(options) or "its default settings"
    head = (
        "# The clinic\n\nReal training programs, each with a known fault and its healthy twin, and healthy runs, under "
        f"`netdoctor.watch` with {settings}. These programs are toys: on the clock by which netdoctor keeps to its "
        f"budget, a turn takes {arguments.turn_seconds:g} s longer. Commit {commit.strip()}, seeds a case: "
        f"{arguments.seeds}. Made by `python -m tests.clinic --write docs/clinic.md`.\n\nThresholds are tuned on one "
        "half of the cases, and tested on the other.\n"
    )
    listed = "## What went wrong\n\n" + "\n".join(f"* {line}" for line in wrong) + "\n" if wrong else ""
    return "\n".join([head, *(table.markdown() for table in made), listed])


if __name__ == "__main__":
    sys.exit(main() > 0)
