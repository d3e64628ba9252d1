"""Draws a sick run of the clinic beside its healthy twin for each rule: ``python -m docs.make.pictures [SLUG ...]``.

Each picture goes to ``docs/rules/pictures/SLUG.svg``, and what was found in its run to ``runs.json`` beside it. Run it
when a rule or a case changes what is seen; all pictures take some minutes.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import torch

import netdoctor
from docs.make.drawing import draw
from docs.make.rule_pages import PICTURES, recorded
from netdoctor.rules import ALL
from tests.clinic.case import Case
from tests.clinic.catalogue import cases
from tests.clinic.examination import TURN_SECONDS
from tests.clinic.pool import each


def watched(case: Case, fault: bool) -> netdoctor.Monitor:
    """Run a case to its end as the clinic does."""
    torch.manual_seed(0)
    program, turn = case.build(fault), 0
    with netdoctor.watch(program.model, reporters=[]) as monitor:
        monitor._schedule.clock = lambda: perf_counter() + TURN_SECONDS * turn
        for turn in range(1, case.steps + 1):
            program.step(turn)
    return monitor


def shown(slug: str) -> dict[str, Any] | None:
    """Draw a case of the disease, that of the picture before if it still shows it; None where none does."""
    before = recorded().get(slug, {}).get("case")
    own = [case for case in cases("sick").values() if slug in case.causes]
    for case in sorted(own, key=lambda case: (case.name != before, case.causes.index(slug))):
        sick = watched(case, fault=True)
        said = [each for finding in sick.findings for each in (finding, *finding.symptoms)]
        finding = next((finding for finding in said if finding.rule == slug), None)
        if finding is not None:
            beside = draw(sick.history, watched(case, fault=False).history, finding, PICTURES / f"{slug}.svg")
            return {"case": case.name, "step": finding.step, "message": finding.message, "beside": beside}
    return None


def main() -> None:
    """Draw the pictures of the rules named on the command line, or of all."""
    slugs = sys.argv[1:] or [rule.slug for rule in ALL]
    PICTURES.mkdir(exist_ok=True, parents=True)
    runs = recorded()
    for slug, run in each(shown, slugs):
        print(f"{slug}: {run['message'] if run else 'no case'}", flush=True)
        if run is not None:
            runs[slug] = run
    text = json.dumps(dict(sorted(runs.items())), indent=1, ensure_ascii=False)
    (PICTURES / "runs.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
