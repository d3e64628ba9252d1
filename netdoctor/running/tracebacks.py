"""Tracebacks of the user's program as they would be if netdoctor were not there."""

from __future__ import annotations

import sys
from types import TracebackType


def without_our_frames(error: BaseException) -> None:
    """Take netdoctor's frames out of the traceback of an exception, of its causes and of its group, in place."""
    todo: list[BaseException | None] = [error]
    done: set[int] = set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in done:
            continue
        done.add(id(each))
        each.__traceback__ = _others(each.__traceback__)
        todo += [each.__cause__, each.__context__]
        if sys.version_info >= (3, 11) and isinstance(each, BaseExceptionGroup):  # noqa: F821
            todo += each.exceptions


def _others(traceback: TracebackType | None) -> TracebackType | None:
    """The chain without our links."""
    first = kept = _next_other(traceback)
    while kept is not None:
        kept.tb_next = _next_other(kept.tb_next)
        kept = kept.tb_next
    return first


def _next_other(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    return traceback


def _is_ours(traceback: TracebackType) -> bool:
    module = traceback.tb_frame.f_globals.get("__name__")
    return isinstance(module, str) and module.partition(".")[0] == "netdoctor"
