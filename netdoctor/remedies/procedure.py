"""What carries a remedy out: procedures, which keep their way back, and plain functions, which are watched for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from netdoctor.findings import Remedy
from netdoctor.remedies.operation import Operation
from netdoctor.remedies.snapshot import Snapshot
from netdoctor.treatment import RemedyError, Treatment


@dataclass(frozen=True)
class Procedure:
    """A treatment that keeps its way back: what `Remedy.treatment` should be.

    Attributes:
        perform: Does it by way of the operation's methods; raises `RemedyError` where it cannot be sure.
    """

    perform: Callable[[Operation], object]

    def __call__(
        self, model: nn.Module, optimizer: Optimizer | None = None, loss_fn: Any = None, action: str = ""
    ) -> Treatment:
        operation = Operation(model, optimizer, loss_fn)
        try:
            self.perform(operation)
        except BaseException:
            operation.undo()
            raise
        return Treatment(action, operation.changes, operation.notes, operation.undo)


def in_turn(*remedies: Remedy) -> Procedure:
    """What several remedies do, as one treatment.

    Raises:
        RemedyError: When it is carried out, and one of them needs a human hand.
    """

    def perform(operation: Operation) -> None:
        for remedy in remedies:
            _perform(remedy.treatment, operation)

    return Procedure(perform)


def both(first: Remedy, second: Remedy) -> Remedy:
    """Two remedies, one after the other, as one."""
    return Remedy(
        action=f"{first.action}; then {second.action[:1].lower()}{second.action[1:]}",
        code=f"{first.code}\n{second.code}",
        source=f"{first.source}; {second.source}",
        effect=second.effect,
        treatment=in_turn(first, second) if first.applicable and second.applicable else None,
        restart=first.restart or second.restart,
    )


def carry_out(treatment: Any, action: str, model: nn.Module, optimizer: Optimizer | None, loss_fn: Any) -> Treatment:
    """Apply a treatment, whatever its kind."""
    procedure = treatment if isinstance(treatment, Procedure) else Procedure(lambda o: _perform(treatment, o))
    return procedure(model, optimizer, loss_fn, action)


def _perform(treatment: Any, operation: Operation) -> None:
    """A plain function costs a copy of all weights while it runs, to tell what it changed."""
    if treatment is None:
        raise RemedyError("a part of this remedy needs a human hand")
    if isinstance(treatment, Procedure):
        treatment.perform(operation)
        return
    before = Snapshot(operation.model, operation.optimizer)
    try:
        treatment(operation.model, operation.optimizer)
    except BaseException:
        before.restore()
        raise
    before.compare(operation)
