"""A user's loop as a generator: written with its epochs, validation and early stop, and a `yield` ending each turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Loop = Iterator[None]


def turns(loop: Loop) -> Callable[[int], object]:
    """``Program.step`` that goes one turn of the loop further, and does nothing once the loop has ended by itself."""
    return lambda i: next(loop, None)
