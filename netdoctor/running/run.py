"""`netdoctor run`: runs a program as Python would, and watches what it trains.

Torch is not imported before the program does so: what it sets before, such as OMP_NUM_THREADS, has its effect.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from netdoctor.running.import_hook import after_import
from netdoctor.running.program import ProgramError
from netdoctor.running.session import Options, Session
from netdoctor.running.tracebacks import without_our_frames

FAILED = 3  # exit status of a program that succeeded and of which something was found that it is to fail on


def run(program: Callable[[], None], options: Options) -> int:
    """Run it to its end; returns or raises what makes Python end as it would have ended without netdoctor.

    Raises:
        ProgramError: There is no such program.
        SystemExit: As the program has raised it.
        KeyboardInterrupt: The program was interrupted; this has been shown already and is not shown again.
    """
    session = Session(options)
    after_import("torch", session.begin)
    error = _outcome(program)
    if isinstance(error, ProgramError):
        raise error
    if error is not None and not isinstance(error, SystemExit):
        _show(error)
    try:
        session.end()
    except KeyboardInterrupt as interrupt:
        error = interrupt
    if isinstance(error, KeyboardInterrupt):
        sys.excepthook = _silent  # Python ends itself by the signal, as it must, if this comes out at its top
        raise error
    if isinstance(error, SystemExit):
        if session.failed and (error.code is None or error.code == 0):
            return FAILED
        raise error
    if error is not None:
        return 1
    return FAILED if session.failed else 0


def _outcome(program: Callable[[], None]) -> BaseException | None:
    try:
        program()
    except BaseException as error:  # noqa: BLE001  # whatever it is, the program has ended
        return error
    return None


def _show(error: BaseException) -> None:
    """Do what Python does with an exception that nothing has caught."""
    without_our_frames(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.excepthook(type(error), error, error.__traceback__)


def _silent(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show nothing."""
