"""The command `netdoctor`. What a command needs is imported when it runs: ``netdoctor --help`` is instant."""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from netdoctor import commands
from netdoctor.findings import Severity
from netdoctor.reporters.by_name import check_name
from netdoctor.spelling import nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 the demo's remedy did not cure, 2 it could not run.

    `netdoctor run` ends as the program ends, or with 3 where ``--fail-on`` says so.
    """
    parser = argparse.ArgumentParser("netdoctor", description="The training doctor for PyTorch.")
    parser.add_argument("--version", action="version", version=f"netdoctor {_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Any], int], does: str, example: str, **options: Any) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name,
            help=does,
            description=f"{does[0].upper()}{does[1:]}.",
            epilog=f"example: {example}",
            allow_abbrev=False,  # of options: the program's own must not be taken for short forms of these
            **options,
        )
        command.set_defaults(run=run)
        return command

    _describe_run(
        add(
            "run",
            commands.run,
            "run a training script and watch the models that it trains",
            "netdoctor run --save run.npz --fail-on warning train.py --lr 0.1",
            usage="netdoctor run [OPTIONS] SCRIPT [ARGS ...]\n       netdoctor run [OPTIONS] -m MODULE [ARGS ...]",
        )
    )
    report = add("report", commands.report, "judge a saved run again", "netdoctor report run.npz -o report.html")
    report.add_argument("saved", metavar="RUN", type=Path, help="file of `netdoctor run --save` or `History.save`")
    report.add_argument("-o", dest="output", metavar="HTML", type=_place, help="write an HTML report to this file")
    explain = add("explain", commands.explain, "show the page of one disease", "netdoctor explain dead-units")
    explain.add_argument("slug", metavar="SLUG", help="its name; `netdoctor rules` lists them")
    add("rules", commands.rules, "list the diseases that netdoctor recognises", "netdoctor rules")
    add("demo", commands.demo, "train a small sick network and its cured twin", "netdoctor demo")
    given = parser.parse_args(arguments)
    status: int = given.run(given)
    return status


def _describe_run(run: argparse.ArgumentParser) -> None:
    severities = {severity.name.lower(): severity for severity in Severity}

    def severity(given: str) -> Severity:
        if given not in severities:
            raise argparse.ArgumentTypeError(f"{given!r} is none of {', '.join(severities)}")
        return severities[given]

    add = run.add_argument
    add("--report", metavar="HTML", type=_place, help="write an HTML report to this file at the end")
    add("--save", metavar="RUN", type=_place, help="keep the run in this file, also if the program fails")
    add(
        "--reporter",
        metavar="NAME",
        action="append",
        type=_reporter,
        help="where to tell of findings; repeatable (console)",
    )
    add("--ignore", metavar="SLUG", action="append", type=_slug, default=[], help="a rule not to run; repeatable")
    add("--every", metavar="N", type=_count, help="sample every N steps, whatever that costs")
    add("--budget", metavar="SHARE", type=_share, default=0.01, help="of the training time to take (0.01)")
    add("--trial", action="store_true", help="try the remedies of what the first steps show, on copies")
    names = ",".join(severities)
    add("--fail-on", metavar=f"{{{names}}}", type=severity, help="end with status 3 on a finding as severe as this")
    add("-m", dest="module", metavar="MODULE", nargs=argparse.REMAINDER, help="run a module, as python -m does")
    add("program", metavar="SCRIPT [ARGS ...]", nargs=argparse.REMAINDER, help="the script and its own arguments")
    run.set_defaults(misuse=run.error)


def _version() -> str:
    try:
        return metadata.version("netdoctor-torch")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _place(given: str) -> Path:
    """A file that can be written, as an absolute path: programs change their working directory."""
    path = Path(given).absolute()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{given!r} is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(Path(given).parent)!r}")
    return path


def _slug(given: str) -> str:
    """A rule's name, which is its file's: the rules themselves would import torch."""
    files = pkgutil.iter_modules([str(Path(__file__).with_name("rules"))])
    slugs = {file.name.replace("_", "-") for file in files} - {"base"}
    if given not in slugs:
        raise argparse.ArgumentTypeError(str(nearest(given, slugs, "rule")))
    return given


def _reporter(given: str) -> str:
    try:
        check_name(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return given


def _count(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number of steps, 1 or more")
    return int(given)


def _share(given: str) -> float:
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a share of the training time, above 0 and at most 1")
    return share
