"""What a rule is: a pure function from a history to evidence, with its slug, severity and the symptoms it explains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from netdoctor.findings import Evidence, Severity, Skipped
from netdoctor.history import History

Judge = Callable[..., Iterator["Evidence | Skipped"]]


@dataclass(frozen=True)
class Rule:
    """One disease.

    Attributes:
        slug: Name of the disease ("vanishing-gradient").
        severity: Unless the evidence says otherwise.
        judge: The function; its keyword-only defaults are the thresholds.
        explains: Slugs of findings that this disease causes: they are listed under it as symptoms.
        thresholds: Thresholds that differ from the defaults.
    """

    slug: str
    severity: Severity
    judge: Judge = field(repr=False)
    explains: tuple[str, ...] = ()
    thresholds: tuple[tuple[str, Any], ...] = ()

    def __call__(self, history: History) -> list[Evidence | Skipped]:
        """All evidence in ``history``; empty where the disease is not there."""
        question = (self.judge, self.thresholds)
        return list(history.memory.once(question, lambda: list(self.judge(history, **dict(self.thresholds)))))

    def tuned(self, **thresholds: Any) -> Rule:
        """A copy with other thresholds.

        Raises:
            TypeError: The rule has no such threshold.
        """
        allowed = [
            name
            for name, parameter in inspect.signature(self.judge).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        for name in thresholds:
            if name not in allowed:
                raise TypeError(f"{self.slug} has no threshold {name!r}; it has {', '.join(allowed) or 'none'}")
        return replace(self, thresholds=tuple({**dict(self.thresholds), **thresholds}.items()))

    @property
    def documentation(self) -> str:
        """The rule's page: what it looks at, why it matters, when it is wrong, references."""
        return inspect.cleandoc(self.judge.__doc__ or "")

    @property
    def summary(self) -> str:
        """First line of the page."""
        return self.documentation.partition("\n")[0]


def rule(severity: Severity, *, explains: tuple[str, ...] = ()) -> Callable[[Judge], Rule]:
    """Make a function a rule; its name, with hyphens, is the slug."""

    def wrap(judge: Judge) -> Rule:
        return Rule(judge.__name__.replace("_", "-"), severity, judge, explains)

    return wrap
