"""Finds the terminal to write to, so that the progress bars of tqdm and rich stay whole."""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any

import rich
from rich.console import Console as Terminal


def terminal_for(file: IO[str] | None) -> tuple[Terminal, Any]:
    """What to print with, and the stream where that ends: ``file``, else the present standard error."""
    stream = unwrapped(sys.stderr if file is None else file)
    terminal = Terminal(file=stream, stderr=True, force_jupyter=None if file is None else False)
    if terminal.is_terminal and stream in (unwrapped(sys.stderr), unwrapped(sys.stdout)):
        terminal = live_terminal() or terminal
    return terminal, stream


def unwrapped(stream: Any) -> Any:
    """The stream behind the stand-in that rich puts in its place while it shows something live."""
    return getattr(stream, "rich_proxied_file", stream)


def bars_cleared(stream: Any) -> AbstractContextManager[Any]:
    """Takes the progress bars of tqdm off the stream, and puts them back below what was written."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None or not getattr(tqdm, "_instances", None):
        return nullcontext()
    bars: AbstractContextManager[Any] = tqdm.external_write_mode(file=stream)
    return bars


def live_terminal() -> Terminal | None:
    """What a progress bar or another live display of rich prints with, None where there is none.

    Printing through it puts the text above the display. It may be rich's own or one made by the user; then it is
    found by the thread that refreshes the display, or by the stand-ins for the standard streams.
    """
    live = sys.modules.get("rich.live")
    if live is None:
        return None
    displays = [getattr(thread, "live", None) for thread in threading.enumerate()]
    terminals = [display.console for display in displays if isinstance(display, live.Live)]
    terminals += [getattr(stream, "_FileProxy__console", None) for stream in (sys.stderr, sys.stdout)]
    for terminal in (*terminals, rich.get_console()):
        shown = any(isinstance(hook, live.Live) for hook in getattr(terminal, "_render_hooks", ()))
        if shown and isinstance(terminal, Terminal) and terminal.is_terminal:
            return terminal
    return None
