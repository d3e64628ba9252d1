"""Holds the clinic itself against its word: ``python -m tests.clinic.verify [PATTERN…]`` runs every case unwatched.

A healthy run and a healthy twin end below the bound, a sick one above it, whatever the seed. Where a twin validates,
its validation loss must not have risen from its best by more than a tenth of its first.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from time import perf_counter
from typing import NamedTuple

import torch
from torch.nn import functional

from tests.clinic.catalogue import Run, case_of, runs
from tests.clinic.pool import each

SEEDS = 5
CRITERIA = ("cross_entropy", "mse_loss", "l1_loss", "binary_cross_entropy_with_logits", "nll_loss")


class Outcome(NamedTuple):
    loss: float
    seconds: float
    train: list[float]  # the loss of each backward pass
    val: list[float]  # of each validation pass; only where the loop calls a criterion through its module


def train(run: Run) -> Outcome:
    torch.manual_seed(run.seed)
    case = case_of(run)
    program = case.build(run.group == "sick")
    losses: list[float] = []
    val_losses: list[float] = []
    backward, originals = torch.Tensor.backward, {name: getattr(functional, name) for name in CRITERIA}

    def noted_backward(self: torch.Tensor, *args: object, **kwargs: object) -> None:
        losses.append(self.detach().mean().item())
        backward(self, *args, **kwargs)

    def noted_loss(name: str, *args: object, **kwargs: object) -> torch.Tensor:
        loss: torch.Tensor = originals[name](*args, **kwargs)
        if not torch.is_grad_enabled() and loss.numel() == 1:
            val_losses.append(loss.item())
        return loss

    torch.Tensor.backward = noted_backward  # type: ignore[method-assign]
    for name in CRITERIA:
        setattr(functional, name, functools.partial(noted_loss, name))
    start = perf_counter()
    try:
        for turn in range(1, case.steps + 1):
            program.step(turn)
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        for name, original in originals.items():
            setattr(functional, name, original)
    return Outcome(program.loss(), perf_counter() - start, losses, val_losses)


def complaints(name: str, outcomes: dict[Run, Outcome]) -> list[str]:
    """What contradicts the case's word."""
    found = []
    for run, outcome in outcomes.items():
        bound = case_of(run).bound
        if math.isinf(bound):
            continue
        if run.group == "sick" and outcome.loss <= bound:
            found.append(f"{name}: sick with seed {run.seed}, and {outcome.loss:.4g} is below {bound:g}")
        if run.group != "sick" and not outcome.loss < bound:
            found.append(f"{name}: {run.group} with seed {run.seed}, and {outcome.loss:.4g} is not below {bound:g}")
        if run.group != "sick" and outcome.val and outcome.val[-1] > min(outcome.val) + 0.1 * outcome.val[0]:
            found.append(f"{name}: with seed {run.seed} validation loss rose from {min(outcome.val):.4g}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.clinic.verify", description=__doc__)
    parser.add_argument("patterns", nargs="*", help="of the cases' names or causes")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-v", "--verbose", action="store_true", help="the curves of the first seed too")
    arguments = parser.parse_args()
    chosen = sorted(runs(arguments.seeds, patterns=tuple(arguments.patterns)))
    done: dict[str, dict[Run, Outcome]] = {}
    found = []
    print(f"{'case':40} {'steps':>5} {'bound':>8}   sick min … max           healthy min … max        seconds")
    for run, outcome in each(train, chosen, arguments.jobs):
        outcomes = done.setdefault(run.case, {})
        outcomes[run] = outcome
        if len(outcomes) == sum(other.case == run.case for other in chosen):
            print(_line(run.case, outcomes), flush=True)
            if arguments.verbose:
                for other, shown in sorted(outcomes.items()):
                    if other.seed == 0:
                        print(
                            f"    {other.group:8} train {_curve(shown.train)}\n             val   {_curve(shown.val)}"
                        )
            found += complaints(run.case, outcomes)
    print("\n".join([f"{len(done)} cases, {len(found)} complaints", *found]))
    return len(found)


def _line(name: str, outcomes: dict[Run, Outcome]) -> str:
    case = case_of(next(iter(outcomes)))
    sick = [outcome.loss for run, outcome in outcomes.items() if run.group == "sick"]
    well = [outcome.loss for run, outcome in outcomes.items() if run.group != "sick"]
    spans = [f"{min(some):.4g} … {max(some):.4g}" if some else "" for some in (sick, well)]
    seconds = max(outcome.seconds for outcome in outcomes.values())
    return f"{name:40} {case.steps:5} {case.bound:8.4g}   {spans[0]:24} {spans[1]:24} {seconds:6.1f}"


def _curve(values: list[float], points: int = 10) -> str:
    return " ".join(f"{values[i * (len(values) - 1) // (points - 1)]:.3g}" for i in range(points)) if values else "none"


if __name__ == "__main__":
    sys.exit(main() > 0)
