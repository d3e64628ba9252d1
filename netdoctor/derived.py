"""What follows from a history, or from its facts alone, is worked out once: every rule asks for some of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from netdoctor.facts import Facts
    from netdoctor.history import History

P = ParamSpec("P")
T = TypeVar("T")


def derived(function: Callable[Concatenate[History, P], T]) -> Callable[Concatenate[History, P], T]:
    """Remember what a function of a history answers, until something is recorded in it or its facts change."""

    @functools.wraps(function)
    def remembered(history: History, /, *args: P.args, **options: P.kwargs) -> T:
        return _once(history.derived, history, function, args, options)

    return remembered


def of_facts(function: Callable[Concatenate[Facts, P], T]) -> Callable[Concatenate[Facts, P], T]:
    """Remember what a function of facts answers: they never change."""

    @functools.wraps(function)
    def remembered(facts: Facts, /, *args: P.args, **options: P.kwargs) -> T:
        return _once(vars(facts).setdefault("_derived", {}), facts, function, args, options)

    return remembered


def _once(known: dict[Any, Any], subject: Any, function: Callable[..., T], args: Any, options: dict[str, Any]) -> T:
    key = (function, args, *options.items())
    if key not in known:
        known[key] = function(subject, *args, **options)
    answer: T = known[key]
    return answer
