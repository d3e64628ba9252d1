"""Experiments of netdoctor's own, of which whoever listens to the program is told nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from netdoctor.probes import losses, optimizers


class _Nobody:
    """Keeps patches and hooks where they are while the others do not listen."""

    def before_backward(self, *args: Any) -> None:
        """Nothing to do."""

    def after_backward(self, *args: Any) -> None:
        """Nothing to do."""

    def dropping(self, *args: Any) -> None:
        """Nothing to do."""

    def evaluated(self, *args: Any) -> None:
        """Nothing to do."""

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Nothing to do."""

    def after_step(self, *args: Any) -> None:
        """Nothing to do."""

    def step_skipped(self, *args: Any) -> None:
        """Nothing to do."""


@contextmanager
def unheard() -> Iterator[None]:
    """Take all present listeners away, and bring those back afterwards whose model is still there."""
    nobody = _Nobody()
    places: tuple[Any, ...] = (losses, optimizers)
    kept = [(place, tuple(place._listeners)) for place in places]
    for place, listeners in kept:
        place.listen(nobody)
        for listener in listeners:
            place.unlisten(listener)
    try:
        yield
    finally:
        for place, listeners in kept:
            for listener in listeners:
                if getattr(listener, "_model", lambda: nobody)() is not None:
                    place.listen(listener)
            place.unlisten(nobody)
