"""The models of one program that `netdoctor run` watches, and what becomes of what was found."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netdoctor.findings import Severity

if TYPE_CHECKING:  # torch is left to the program, which may have to set something before it imports it
    from torch import nn

    from netdoctor.monitor import Monitor
    from netdoctor.reporters import Reporter
    from netdoctor.reporters.console import Console
    from netdoctor.running.discovery import Discovery

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
        trial: Whether to try remedies on copies once the start of the training is over.
        fail_on: The least severity of a finding that makes the run fail, None for none.
    """

    report: Path | None = None
    save: Path | None = None
    reporters: tuple[str, ...] = ("console",)
    ignore: tuple[str, ...] = ()
    every: int | None = None
    budget: float = 0.01
    trial: bool = False
    fail_on: Severity | None = None


class _Watched:
    """One model of the program: what it is called, and what is left of it when its monitor has closed."""

    def __init__(self, label: str, monitor: Monitor, console: Console | None, files: dict[Path, Reporter]) -> None:
        self.label = label
        self.console = console
        self.severity = 0  # of its worst finding
        self.saved: tuple[str, ...] = ()
        self._monitor: Monitor | None = monitor
        self._files = files
        for file in files.values():
            monitor.add_reporter(file)

    def settle(self, close: bool = False) -> None:
        """Let go of the numbers once the monitor is closed: a program may train many models one after the other."""
        monitor = self._monitor
        if monitor is None or not (close or monitor.closed):
            return
        monitor.close()
        faults = monitor.faults
        self.severity = max((finding.severity for finding in monitor.findings), default=0)
        self.saved = tuple(
            str(path) for path, file in self._files.items() if f"the reporter {type(file).__name__}" not in faults
        )
        self._monitor, self._files = None, {}


class Session:
    """Watches what the program trains, from its import of torch on.

    A program that calls `netdoctor.watch` itself knows better what to watch: its monitors are taken, and nothing is
    looked for any more. Of several ranks the first speaks.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._process = os.getpid()  # a forked child has nothing to tell
        self._discovery: Discovery | None = None
        self._watching = False  # whether it is this that calls `watch`
        self._models: list[_Watched] = []
        self._kinds: Counter[str] = Counter()  # how many models of each class there were

    def begin(self) -> None:
        """The program has imported torch."""
        try:
            from netdoctor import monitor
            from netdoctor.running.discovery import Discovery

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
            model.settle(close=True)
        saved = ", ".join(path for model in self._models for path in model.saved)
        if saved:
            _say(f"Saved {saved}")
        if not self._models and _rank() == 0:
            why = "no optimizer made a step in this process" if self._discovery else "torch was not imported"
            _say(f"Nothing was watched: {why}.")

    @property
    def failed(self) -> bool:
        """Whether anything was found that the run is to fail on; known at its end."""
        bar = self._options.fail_on
        return bar is not None and any(model.severity >= bar for model in self._models)

    def _found(self, model: nn.Module) -> None:
        """The program trains this model."""
        from netdoctor.monitor import watch
        from netdoctor.reporters.console import Console

        options = self._options
        if _rank() != 0:
            self._join(model)
            return
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
        if options.trial:
            from netdoctor.running.rehearsal import Rehearsal

            monitor.add_reporter(Rehearsal(model, monitor, _say))
        size = sum(parameter.numel() for parameter in model.parameters())
        _say(f"Watching {self._models[-1].label} ({size:,} parameters).")

    def _join(self, model: nn.Module) -> None:
        """The first rank watches this model, too, and asks for what this one sees of it."""
        from netdoctor.monitor import watch

        self._watching = True
        try:
            watch(model, reporters=[], rules=[], budget=self._options.budget, every=self._options.every)
        except (TypeError, ValueError):
            log.debug("this rank is not watched", exc_info=True)  # the first one says why
        finally:
            self._watching = False

    def _opened(self, monitor: Monitor) -> None:
        """There is a new monitor."""
        if not self._watching and self._discovery is not None and os.getpid() == self._process and _rank() == 0:
            self._discovery.stop()
            self._take(monitor, None)

    def _take(self, monitor: Monitor, console: Console | None) -> None:
        kind = monitor.history.facts.model
        self._kinds[kind] += 1
        label = kind if self._kinds[kind] == 1 else f"{kind} {self._kinds[kind]}"
        files = self._make_files(f"-{label.replace(' ', '-')}" if self._models else "")
        for model in self._models:
            model.settle()
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
