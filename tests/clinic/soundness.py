"""Are the healthy cases healthy? ``python -m tests.clinic.soundness [PATTERN…]`` trains each unwatched.

It asks what a knowing engineer would: does the loss (mostly a held-out one) end below its bound and not far above its
best, are steps of a sane size, is most of the network alive. Nothing of netdoctor is used.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import process_time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.clinic.case import Program
from tests.clinic.catalogue import Run, case_of, cases, runs
from tests.clinic.pool import each

POINTS = 12  # at which the loss is taken
RISE = 0.05  # of the way from the first loss to the best that the last one may lie above the best
RATIOS = (1e-5, 0.3)  # ‖Δw‖/‖w‖ of the matrices, median over the run
SILENT = 0.9  # share of a layer's ReLU units that no held-out sample activates
SECONDS = 3.0  # of processor time


@dataclass
class Course:
    """What one run came to."""

    losses: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    silent: float = 0.0
    seconds: float = 0.0

    def complaints(self, bound: float) -> list[str]:
        first, best, last = self.losses[0], min(self.losses), self.losses[-1]
        ratio = sorted(self.ratios)[len(self.ratios) // 2] if self.ratios else RATIOS[0]
        checks = {
            f"ends at {last:.4g}, bound {bound:g}": not last < bound,
            f"starts at {first:.4g}, below the bound {bound:g}": first < bound,
            f"ends at {last:.4g} after {best:.4g}": not last - best <= RISE * (first - best),
            f"median step ratio {ratio:.2g}": not RATIOS[0] <= ratio <= RATIOS[1],
            f"{self.silent:.0%} of a layer's units are silent": self.silent > SILENT,
            f"{self.seconds:.1f} s": self.seconds > SECONDS,
            "not finite": not all(map(math.isfinite, self.losses)),
        }
        return [text for text, wrong in checks.items() if wrong]


def train(run: Run) -> Course:
    torch.manual_seed(run.seed)
    case, course = case_of(run), Course()
    program = case.build(False)
    course.losses.append(_look(program))
    for turn in range(1, case.steps + 1):
        sampled = turn == 1 or turn % max(1, case.steps // 25) == 0
        before = _matrices(program.model) if sampled else {}
        start = process_time()
        program.step(turn)
        course.seconds += process_time() - start
        for name, weight in _matrices(program.model).items() if sampled else ():
            if not torch.equal(weight, before[name]) and before[name].norm() > 0:
                course.ratios.append(float((weight - before[name]).norm() / before[name].norm()))
        if turn * POINTS // case.steps > (turn - 1) * POINTS // case.steps and turn < case.steps:
            course.losses.append(_look(program))
    with _silent_units(course):
        course.losses.append(program.loss())
    return course


def _look(program: Program) -> float:
    """The loss in between; leaves the generator and the modes as they are."""
    modes = {module: module.training for module in program.model.modules()}
    with torch.random.fork_rng():
        loss = program.loss()
    for module, mode in modes.items():
        module.training = mode
    return loss


def _matrices(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.ndim > 1}


@contextlib.contextmanager
def _silent_units(course: Course) -> Iterator[None]:
    original = F.relu

    def noted(x: Tensor, inplace: bool = False) -> Tensor:
        if x.ndim > 1 and len(x) >= 32:
            units = x.detach().transpose(0, 1 if x.ndim == 4 else -1).flatten(1)
            course.silent = max(course.silent, float((units <= 0).all(1).float().mean()))
        return original(x, inplace)

    F.relu = noted  # type: ignore[assignment]
    try:
        yield
    finally:
        F.relu = original


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.clinic.soundness", description=__doc__)
    parser.add_argument("patterns", nargs="*", help="of the cases' names")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-v", "--verbose", action="store_true", help="the losses of every seed")
    arguments = parser.parse_args()
    done: dict[str, dict[int, Course]] = {}
    for run, course in each(train, runs(arguments.seeds, ("healthy",), tuple(arguments.patterns)), arguments.jobs):
        done.setdefault(run.case, {})[run.seed] = course
    wrong = 0
    print(f"{'case':56} steps seconds    bound  first loss       best       last        step ratio  silent")
    for name, courses in done.items():
        case, every = cases("healthy")[name], courses.values()
        first, best, last = (max(map(part, every)) for part in (_first, _best, _last))
        ratios = sorted(ratio for course in every for ratio in course.ratios) or [math.nan]
        low, high = ratios[len(ratios) // 10], ratios[-len(ratios) // 10]
        print(
            f"{name:56} {case.steps:5} {max(course.seconds for course in every):7.2f} {case.bound:8.4g}"
            f"   {first:9.4g}  {best:9.4g}  {last:9.4g}  {low:.1e} … {high:.1e}"
            f" {max(course.silent for course in every):6.0%}"
        )
        for seed, course in sorted(courses.items()):
            if arguments.verbose:
                print(f"    {seed}: " + " ".join(f"{loss:.4g}" for loss in course.losses))
            for complaint in course.complaints(case.bound):
                wrong += 1
                print(f"  ! seed {seed}: {complaint}")
    print(f"{len(done)} cases, {wrong} complaints")
    return wrong


def _first(course: Course) -> float:
    return course.losses[0]


def _best(course: Course) -> float:
    return min(course.losses)


def _last(course: Course) -> float:
    return course.losses[-1]


if __name__ == "__main__":
    sys.exit(main() > 0)
