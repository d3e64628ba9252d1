"""The models of one program that `netdoctor run` watches, and what becomes of what was found."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netdoctor.findings import Severity

if TYPE_CHECKING:  # torch is left to the program, which may have to set something before it imports it
    from torch import nn

    from netdoctor.discovery import Discovery
    from netdoctor.monitor import Monitor
    from netdoctor.reporters import Reporter
    from netdoctor.reporters.console import Console

log = logging.getLogger("netdoctor")


@dataclass(frozen=True)
class Options:
    """What `netdoctor run` is asked for.

    Attributes:
        report: HTML file to write at the end.
        save: Run file to write.
        reporters: Names of reporters.
        ignore: Slugs of rules not to run.
        every: Steps between samples, None to keep to the budget.
        budget: Share of the training time to take.
        fail_on: The least severity of a finding that makes the run fail, None for none.
    """

    report: Path | None = None
    save: Path | None = None
    reporters: tuple[str, ...] = ("console",)
    ignore: tuple[str, ...] = ()
    every: int | None = None
    budget: float = 0.01
    fail_on: Severity | None = None


@dataclass
class _Watched:
    """One model: what it is called, its monitor, and where is told of it."""

    label: str
    monitor: Monitor
    console: Console | None
    files: dict[Path, Reporter]


class Session:
    """Watches what the program trains, from its import of torch on.

    A program that calls `netdoctor.watch` itself knows better what to watch: its monitors are taken, and nothing is
    looked for any more. Of several ranks only the first is watched.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._process = os.getpid()  # a forked child has nothing to tell
        self._discovery: Discovery | None = None
        self._watching = False  # whether it is this that calls `watch`
        self._models: list[_Watched] = []

    def begin(self) -> None:
        """The program has imported torch."""
        try:
            from netdoctor import monitor
            from netdoctor.discovery import Discovery

            monitor.on_watch.append(self._opened)
            self._discovery = Discovery(self._found)
            self._discovery.start()
        except Exception:
            log.exception("netdoctor cannot watch this program")

    def end(self) -> None:
        """The program is over: close the monitors and say where the files are."""
        if os.getpid() != self._process:
            return
        if self._discovery is not None:
            self._discovery.stop()
        for model in self._models:
            model.monitor.close()
        saved = [str(path) for m in self._models for path, file in m.files.items() if _whole(file, m.monitor)]
        if saved:
            _say(f"Saved {', '.join(saved)}")
        if not self._models and _rank() == 0:
            why = "no optimizer made a step in this process" if self._discovery else "torch was not imported"
            _say(f"Nothing was watched: {why}.")

    @property
    def failed(self) -> bool:
        """Whether anything was found that the run is to fail on."""
        bar = self._options.fail_on
        return bar is not None and any(f.severity >= bar for model in self._models for f in model.monitor.findings)

    def _found(self, model: nn.Module) -> None:
        """The program trains this model."""
        if _rank() != 0:
            return
        from netdoctor.monitor import watch
        from netdoctor.reporters.console import Console

        options = self._options
        console = Console(monitor="") if "console" in options.reporters else None
        reporters = [console if console and name == "console" else name for name in options.reporters]
        self._watching = True
        try:
            monitor = watch(
                model, reporters=reporters, ignore=options.ignore, budget=options.budget, every=options.every
            )
        except (TypeError, ValueError, ImportError) as error:
            _say(f"{type(model).__name__} is not watched: {error}")
            return
        finally:
            self._watching = False
        self._take(monitor, console)
        size = sum(parameter.numel() for parameter in model.parameters())
        _say(f"Watching {self._models[-1].label} ({size:,} parameters).")

    def _opened(self, monitor: Monitor) -> None:
        """There is a new monitor."""
        if not self._watching and self._discovery is not None and os.getpid() == self._process:
            self._discovery.stop()
            self._take(monitor, None)

    def _take(self, monitor: Monitor, console: Console | None) -> None:
        kind = monitor.history.facts.model
        number = 1 + sum(model.monitor.history.facts.model == kind for model in self._models)
        label = kind if number == 1 else f"{kind} {number}"
        files = self._make_files(f"-{label.replace(' ', '-')}" if self._models else "")
        for file in files.values():
            monitor.add_reporter(file)
        self._models.append(_Watched(label, monitor, console, files))
        if len(self._models) > 1:
            for model in self._models:
                if model.console is not None:
                    model.console.label = model.label

    def _make_files(self, suffix: str) -> dict[Path, Reporter]:
        made: dict[Path, Reporter] = {}
        for given, module, kind in (
            (self._options.save, "netdoctor.reporters.run_file", "RunFile"),
            (self._options.report, "netdoctor.reporters.html", "Html"),
        ):
            if given is not None:
                path = given.with_stem(given.stem + suffix)
                made[path] = getattr(importlib.import_module(module), kind)(path)
        return made


def _whole(file: Reporter, monitor: Monitor) -> bool:
    return f"the reporter {type(file).__name__}" not in monitor.faults


def _say(sentence: str) -> None:
    from netdoctor.reporters.console import Console

    try:
        Console().say(sentence)
    except Exception:  # a closed stream must not end the program
        log.debug("could not say: %s", sentence, exc_info=True)


def _rank() -> int:
    """Of this process among those that train together."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        rank: int = distributed.get_rank()
        return rank
    given = os.environ.get("RANK", "0")  # of torchrun
    return int(given) if given.isdigit() else 0
