"""What came of curing the sick: the bars, what each rule's remedies do, and every run in which they do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from tests.clinic.cure import Cure, Tried
from tests.clinic.table import Table


def cure_tables(cures: Sequence[Cure]) -> list[Table]:
    """The bars, and one row a rule."""
    return [_bars(cures), _by_rule(cures)]


def _bars(cures: Sequence[Cure]) -> Table:
    found = [each for each in cures if each.found]
    treated = judged(cures)
    rows = (
        ("sick runs whose fault was found", _share(bool(each.found) for each in cures)),
        ("… with a remedy that was applied", _share(each.first is not None for each in found)),
        ("… … of these with a bound: the first one cures", _share(each.first_cures for each in treated)),
        ("… … any of them cures", _share(any(t.cured for t in each.tried) for each in treated)),
        ("… … the short trial puts one first that cures", _share(each.pick_cures for each in treated)),
    )
    return Table("Cures", ("", "runs"), rows)


def _by_rule(cures: Sequence[Cure]) -> Table:
    rows = []
    for slug in sorted({each.found for each in cures if each.found}):
        of_rule = [each for each in cures if each.found == slug]
        treated = judged(of_rule)
        by_hand = sum(each.first is None for each in of_rule)
        first, pick = (
            (_share(done) for done in zip(*((t.first_cures, t.pick_cures) for t in treated), strict=True))
            if (treated)
            else ("", "")
        )
        rows.append((slug, str(len(of_rule)), str(by_hand), first, pick))
    return Table("By rule", ("rule", "runs", "by hand", "first cures", "trial's pick cures"), tuple(rows))


def judged(cures: Iterable[Cure]) -> list[Cure]:
    """Those that got a remedy, and that a bound tells cured from sick."""
    return [each for each in cures if each.first is not None and math.isfinite(each.bound)]


def uncured(cures: Iterable[Cure], verbose: bool = False) -> Iterator[str]:
    """A few lines for each run whose first remedy, or the trial's, does not cure; all runs where ``verbose``."""
    for each in cures:
        if not each.found:
            yield f"{each.run.case} {each.run.seed}: not found"
        elif verbose or (each in judged([each]) and not (each.first_cures and each.pick_cures)):
            pick = each.pick.action if each.pick else "none"
            yield f"{each.run.case} {each.run.seed}: {each.found} at turn {each.turn}, bound {each.bound:g}"
            yield f"    untouched {each.untouched.loss:.4g} {_remaining(each.untouched.findings)}; pick: {pick}"
            for tried in each.tried:
                what = f"refused: {tried.refused}" if tried.refused else _ended(tried)
                yield f"    {'cures' if tried.cured else '     '} {what}  {tried.action}"
            for action in each.by_hand:
                yield f"          by hand  {action}"


def _ended(tried: Tried) -> str:
    return f"{tried.loss:.4g} (short {tried.short:.4g} {_remaining(tried.findings)})"


def _remaining(findings: tuple[str, ...]) -> str:
    return f"with {', '.join(findings)}" if findings else "with nothing said"


def _share(done: Iterable[bool]) -> str:
    each = list(done)
    return f"{sum(each)} of {len(each)} ({100 * sum(each) / len(each):.0f} %)" if each else ""
