"""What a remedy did to a model and its optimizer, and the way back; knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class RemedyError(ValueError):
    """A remedy that was not carried out, and why; model and optimizer are as they were."""


@dataclass(frozen=True)
class Change:
    """One thing that was changed.

    Attributes:
        what: Its name ("fc1.weight", "lr of param group 0").
        before: What it was, in words or numbers.
        after: What it is.
    """

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before} → {self.after}"


class Treatment:
    """What `Remedy.apply` did.

    Attributes:
        action: The remedy's.
        active: Whether it still holds: false once it was undone.
    """

    def __init__(self, action: str, changes: list[Change], notes: list[str], undo: Callable[[], None]) -> None:
        self.action = action
        self.active = True
        self._changes, self._notes, self._undo = changes, notes, undo

    @property
    def changes(self) -> tuple[Change, ...]:
        """What was changed, in the order in which it was; grows where something is only due at the next step."""
        return tuple(self._changes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What else one should know: optimizer state that was reset, what to do before training goes on."""
        return tuple(self._notes)

    @property
    def before(self) -> dict[str, str]:
        """What everything that was changed had been."""
        return {change.what: change.before for change in reversed(self._changes)}

    @property
    def after(self) -> dict[str, str]:
        """What it has become."""
        return {change.what: change.after for change in self._changes}

    def undo(self) -> None:
        """Put everything that was changed back, bit for bit, and the optimizer's memory of it; twice does nothing.

        Of several treatments the last is to be undone first. What training has changed elsewhere meanwhile stays.
        """
        if self.active:
            self.active = False
            self._undo()

    def __str__(self) -> str:
        lines = [self.action, *(f"  {change}" for change in self._changes), *(f"  {note}" for note in self._notes)]
        return "\n".join([*lines, *([] if self.active else ["  (undone)"])])

    def __repr__(self) -> str:
        return f"<Treatment: {self.action}; {len(self._changes)} changes{'' if self.active else ', undone'}>"
