"""Replicas of one model that do not hold the same weights any more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netdoctor.facts import Facts, Parameter
from netdoctor.findings import Evidence, Reading, Remedy, Severity
from netdoctor.history import History
from netdoctor.rules.base import rule

NAMED = 3  # parameters in the message


@rule(
    Severity.ERROR,
    explains=("diverging-loss", "oscillating-loss", "noisy-gradient", "loss-plateau", "train-val-mismatch"),
)
def replicas_diverged(
    history: History,
    *,
    spread: float = 1e-6,  # of the parameter's norm: replicas are the same to the bit, and float32 resolves 6e-8
    samples: int = 2,  # in a row: weights that are averaged now and then lie apart in between
) -> Iterator[Evidence]:
    """A parameter of which every rank has a replica is not the same on all ranks.

    ## What it looks at
    The sum over all elements of each parameter that is whole on every rank, after the step: the largest of all ranks
    less the least, over the parameter's norm. DistributedDataParallel makes the replicas equal at the start and gives
    all of them the same gradients, so that nothing but the program can part them.

    ## Why it matters
    Each rank computes its gradient for weights that the others do not have, and the average fits none of them. What is
    saved is the model of one rank, which is not the one that was trained.

    ## When it is wrong
    Trainings whose replicas are meant to part between two averages (local SGD, gossip). Changes that leave the sum of a
    parameter as it is are not seen.

    ## References
    Li et al. 2020, PyTorch Distributed, section 3 (correctness: same initial weights, same gradients). PyTorch
    documentation, DistributedDataParallel: parameters must not be changed after the model was wrapped.
    """
    table = history.table("replica_spread")
    if len(table) < samples:
        return  # one process, or weights of which every rank holds another part
    apart = table.values > spread
    parted = np.flatnonzero(apart[-samples:].all(0))
    if not len(parted):
        return
    since = {int(column): int(table.steps[_begin(apart[:, column])]) for column in parted}
    widths = {int(column): float(table.values[-1, column]) for column in parted}
    order = sorted(widths, key=lambda column: (since[column], -widths[column]))
    names = [table.columns[column] for column in order]
    first, now = since[order[0]], int(table.steps[-1])
    verb = "is" if len(names) == 1 else "are"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    yield Evidence(
        f"{', '.join(names[:NAMED])}{more}, of {len(table.columns)} parameters, {verb} not "
        f"the same on all ranks since step {first}: {names[0]} is apart by {widths[order[0]]:.2g} of its norm.",
        layers=tuple(dict.fromkeys(_layer(history.facts, name) for name in names)),
        readings=tuple(
            Reading(
                f"distance of the replicas of {name} over its norm", widths[column], spread, "", (since[column], now)
            )
            for name, column in zip(names[:NAMED], order, strict=False)
        ),
        confidence=0.95,
        remedies=(
            Remedy(
                action="Give all ranks the weights of the first one again, on every rank at once",
                code="with torch.no_grad():\n    for parameter in model.parameters():\n"
                "        torch.distributed.broadcast(parameter, src=0)",
                source="PyTorch documentation, torch.distributed.broadcast",
                effect="the replicas are the same until something parts them again",
            ),
            Remedy(
                action=f"Find what changes {names[0]} on some ranks: code under `if rank == 0`, a checkpoint that one "
                "rank loads, random numbers with a seed for each rank, settings of the optimizer that differ",
                source="PyTorch documentation, DistributedDataParallel, warnings",
            ),
        ),
    )


def _begin(apart: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """Row from which on a parameter has been apart."""
    together = np.flatnonzero(~apart)
    return int(together[-1]) + 1 if len(together) else 0


def _layer(facts: Facts, name: str) -> str:
    return next((p.layer for p in facts.parameters if p.name == name), name.rpartition(".")[0])


def _history(**spread: list[float]) -> History:
    parameters = tuple(Parameter(f"{layer}.weight", layer, (8, 8), "weight") for layer in spread)
    return History.of(
        Facts(parameters=parameters), replica_spread={f"{layer}.weight": values for layer, values in spread.items()}
    )


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _history(fc1=[0.0] * 6, fc2=[0.0, 0.0, 0.0, 0.1, 0.1, 0.1]),  # changed by hand on one rank
        _history(fc1=[0.3, 0.3], fc2=[0.2, 0.2]),  # different from the start
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _history(fc1=[0.0] * 6, fc2=[0.0] * 6),  # healthy
        _history(fc1=[5e-8] * 6),  # within rounding
        _history(fc1=[0.0, 0.0, 0.1, 0.0, 0.0, 0.1]),  # averaged every third step
        _history(fc1=[0.1]),  # too early
        History.of(Facts(), loss=[1.0, 0.9]),  # one process
    )
