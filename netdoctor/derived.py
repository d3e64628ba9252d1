"""What follows from a history, or from its facts alone, is worked out once: every rule asks for some of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from netdoctor.facts import Facts
    from netdoctor.history import History
    from netdoctor.table import Table

Floats = NDArray[Any]
P = ParamSpec("P")
T = TypeVar("T")


class Memory:
    """Answers about something that grows, each kept until a part of it changes that was looked at for the answer.

    Which parts these are is seen while an answer is worked out: whoever gives out a part says so by `looked_at`. At a
    sample most statistics get a reading, but the first readings of a run, say, stay as they are.
    """

    def __init__(self) -> None:
        self._now = 0
        self._changes: dict[Hashable, int] = {}  # part: when it last changed
        self._answers: dict[Hashable, tuple[Any, frozenset[Hashable], int]] = {}  # the answer, its parts, known good at
        self._rows: dict[Hashable, tuple[int, object, Floats]] = {}  # of tables: stride, basis, what follows of each
        self._open: list[set[Hashable]] = []  # the parts looked at so far, of each answer that is being worked out

    def looked_at(self, part: Hashable) -> None:
        """A part was given out."""
        if self._open:
            self._open[-1].add(part)

    def changed(self, *parts: Hashable) -> None:
        """These parts are others now."""
        self._now += 1
        self._changes.update(dict.fromkeys(parts, self._now))

    def forget(self) -> None:
        """Everything is another now."""
        self._answers.clear()
        self._rows.clear()

    def once(self, question: Hashable, answer: Callable[[], T]) -> T:
        """The answer as it was given before if it still holds, else a new one."""
        value, parts, good = self._answers.get(question, (None, frozenset(), -1))
        if good < 0 or (good < self._now and not self._holds(parts, good)):
            self._open.append(set())
            try:
                value = answer()
            finally:
                parts = frozenset(self._open.pop())
        if good != self._now:
            self._answers[question] = value, parts, self._now
        if self._open:
            self._open[-1] |= parts
        found: T = value
        return found

    def _holds(self, parts: frozenset[Hashable], good: int) -> bool:
        """Whether none of the parts has changed since."""
        changes = self._changes
        return max((changes.get(part, 0) for part in parts), default=0) <= good

    def by_row(self, question: Hashable, table: Table, basis: object, reduce: Callable[[Floats], Floats]) -> Floats:
        """What ``reduce`` makes of a table's rows, [rows, …], worked out for those alone that are new.

        Args:
            question: Whose answer it is.
            table: Of the history.
            basis: What else ``reduce`` rests on: where it is another object, all rows are new.
            reduce: From some rows of readings to as many rows.
        """
        stride, of, done = self._rows.get(question, (0, None, np.zeros(0)))
        # The last row of those before may have been recorded again since; a table that was thinned has other rows.
        same = len(done) - 1 if of is basis and stride == table.stride and 1 < len(done) <= len(table) else 0
        fresh = reduce(table.values[same:])
        found = np.concatenate((done[:same], fresh)) if same else fresh
        self._rows[question] = table.stride, basis, found
        return found


def derived(function: Callable[Concatenate[History, P], T]) -> Callable[Concatenate[History, P], T]:
    """Remember what a function of a history answers, until something that it looked at has changed."""

    @functools.wraps(function)
    def remembered(history: History, /, *args: P.args, **options: P.kwargs) -> T:
        question = (function, args, *options.items())
        return history.memory.once(question, lambda: function(history, *args, **options))

    return remembered


def of_facts(function: Callable[Concatenate[Facts, P], T]) -> Callable[Concatenate[Facts, P], T]:
    """Remember what a function of facts answers: they never change."""

    @functools.wraps(function)
    def remembered(facts: Facts, /, *args: P.args, **options: P.kwargs) -> T:
        known = vars(facts).setdefault("_derived", {})
        question = (function, args, *options.items())
        if question not in known:
            known[question] = function(facts, *args, **options)
        answer: T = known[question]
        return answer

    return remembered
