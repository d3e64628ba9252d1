"""Every case of the clinic: those of the files in the folders `sick` and `healthy`."""

from __future__ import annotations

import functools
import importlib
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple

from tests.clinic.case import Case

Group = Literal["sick", "twins", "healthy"]
HERE = Path(__file__).parent


class Run(NamedTuple):
    """One run to make: the case of that name, with or without its fault. Travels between processes, as no case can."""

    case: str
    group: Group
    seed: int


@functools.cache
def cases(folder: Literal["sick", "healthy"]) -> dict[str, Case]:
    """By name, in the order of the files and within them.

    Raises:
        ValueError: Two cases have the same name.
    """
    found: dict[str, Case] = {}
    for path in sorted((HERE / folder).glob("*.py")):
        module = importlib.import_module(f"tests.clinic.{folder}.{path.stem}")
        for case in vars(module).values():
            if isinstance(case, Case):
                if case.name in found:
                    raise ValueError(f"two cases are called {case.name}")
                found[case.name] = case
    return found


def case_of(run: Run) -> Case:
    return cases("healthy" if run.group == "healthy" else "sick")[run.case]


def runs(
    seeds: int, groups: tuple[Group, ...] = ("sick", "twins", "healthy"), patterns: tuple[str, ...] = (), half: str = ""
) -> list[Run]:
    """All runs of the cases whose name, or one of whose causes, matches a pattern (all without patterns)."""
    chosen = []
    for group in groups:
        for case in cases("healthy" if group == "healthy" else "sick").values():
            names = (case.name, *case.causes)
            if (not patterns or any(fnmatch(name, pattern) for name in names for pattern in patterns)) and (
                not half or case.half == half
            ):
                chosen += [Run(case.name, group, seed) for seed in range(seeds)]
    return chosen
