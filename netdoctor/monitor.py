"""`watch` and the monitor it returns: records, judges, and tells the reporters."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from netdoctor import arguments, resuming
from netdoctor.best_checkpoint import BestCheckpoint
from netdoctor.casebook import Casebook
from netdoctor.delivery import Delivery
from netdoctor.diagnose import diagnose
from netdoctor.findings import Diagnosis, Finding, Skipped
from netdoctor.history import History
from netdoctor.probes.anatomy import unwrapped, watched_modules
from netdoctor.probes.ranks import rank
from netdoctor.probes.schedule import Schedule
from netdoctor.recorder import Recorder
from netdoctor.reopening import context
from netdoctor.reporters import Change, Report, Reporter
from netdoctor.reporters.run_file import save_aside
from netdoctor.rules.base import Rule

log = logging.getLogger("netdoctor")


def watch(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    reporters: Iterable[str | Reporter] | None = None,
    rules: Iterable[str | Rule] | None = None,
    ignore: Iterable[str] = (),
    budget: float = 0.01,
    every: int | None = None,
    layers: Iterable[str] | None = None,
) -> Monitor:
    """Watch a model while an existing loop trains it, and say what is wrong.

    Watching a watched model returns its monitor, unchanged.

    Args:
        model: Any torch module. Watch it before `torch.compile` and before the first step.
        optimizer: Optional; by default it is found at its first step.
        reporters: Names ("console", "html") or objects with `report` and `close`; default console, ``[]`` is silent.
        rules: Rules to run, or their slugs; default all.
        ignore: Slugs of rules not to run.
        budget: Share of the training time that netdoctor may take, above 0 and at most 1.
        every: Sample every so many steps instead of keeping to the budget.
        layers: Glob patterns of the layers to watch ("encoder.*"); default all.

    Raises:
        TypeError: ``model`` is no module, ``optimizer`` no optimizer.
        NotImplementedError: ``model`` is one of DeepSpeed or on an XLA device.
        ValueError: Anything else that cannot be used; says what is allowed and the nearest match.
    """
    arguments.check_model(model)
    arguments.check_optimizer(optimizer)
    model = unwrapped(model)
    known = _monitors.get(model)
    if known is not None and not known.closed:
        return known
    monitor = Monitor(
        model,
        optimizer,
        arguments.chosen_layers(watched_modules(model), layers),
        arguments.chosen_rules(rules, ignore),
        arguments.chosen_reporters(reporters),
        Schedule(arguments.checked_budget(budget), arguments.checked_every(every)),
    )
    _monitors[model] = monitor
    for told in on_watch:
        told(monitor)
    return monitor


class Monitor:
    """Follows one model's training; made by `watch`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        modules: dict[str, nn.Module],
        rules: tuple[Rule, ...],
        reporters: tuple[Reporter, ...],
        schedule: Schedule,
    ) -> None:
        self.closed = False
        self._rules = rules
        self._delivery = Delivery(reporters)
        self._schedule = schedule
        self._casebook = Casebook()
        self._faults: dict[str, str] = {}
        self._effects: dict[str, str] = {}  # that remedies had when they were tried, by action
        self._model = weakref.ref(model)
        reference = weakref.ref(self)
        self._finalizer = weakref.finalize(model, _close_apart, reference)
        self._finalizer.atexit = False
        atexit.register(_close, reference)
        self._recorder = Recorder(model, optimizer, modules, schedule, self._step_ended, self._fail)

    @property
    def history(self) -> History:
        """The numbers so far; waits for what the device has not delivered yet."""
        self._recorder.flush()
        return self._recorder.history

    @property
    def step(self) -> int:
        """Optimizer steps seen so far."""
        return self._recorder.step

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding raised so far, resolved ones included, oldest first."""
        return self._casebook.findings

    @property
    def overhead(self) -> float:
        """Share of the training time that netdoctor took so far (0.01 is 1 %)."""
        return self._schedule.overhead

    @property
    def faults(self) -> dict[str, str]:
        """What of netdoctor itself fails, and why: parts, which stay switched off, and reporters."""
        return {**self._faults, **{f"the reporter {name}": why for name, why in self._delivery.faults.items()}}

    def diagnose(self) -> Diagnosis:
        """The verdict now."""
        self._recorder.flush()
        return self._verdict()

    def _verdict(self) -> Diagnosis:
        verdict = diagnose(self._recorder.history, self._rules)
        faults = tuple(Skipped(f"{what} failed: {why}") for what, why in self.faults.items())
        unseen = tuple(map(Skipped, self._recorder.unseen))
        findings = tuple(finding.expecting(self._effects) for finding in verdict.findings)
        return Diagnosis(self.step, findings, (*faults, *unseen, *verdict.skipped))

    def expect(self, effects: Mapping[str, str]) -> None:
        """Let remedies, known by their action, be expected to have these effects from now on: `trial` measures them."""
        self._effects |= effects
        self._casebook.expect(effects)

    def observe(
        self,
        loss: Tensor | float | None = None,
        *,
        val_loss: Tensor | float | None = None,
        output: Tensor | None = None,
        target: Tensor | None = None,
        **metrics: Tensor | float,
    ) -> None:
        """Tell netdoctor what it cannot see, or what counts instead of what it saw; never waits for the device.

        Args:
            loss: Training loss of the present step, a scalar; replaces what was read at `backward`.
            val_loss: Validation loss, a scalar; from then on only values given here count.
            output: A training batch's prediction, where the loss is written by hand: with ``target`` it tells what the
                best constant prediction would lose.
            target: Its target: class indices, or values of the output's shape.
            **metrics: Any other scalars ("accuracy"), kept in the history as "metric/accuracy".

        Raises:
            TypeError: A value is no number and no tensor; only one of ``output`` and ``target`` is given.
            ValueError: A tensor that should be a scalar has more than one element.
        """
        given = {"loss": loss, "val_loss": val_loss, **{f"metric/{name}": value for name, value in metrics.items()}}
        checked = {name: arguments.scalar(name, value) for name, value in given.items() if value is not None}
        for name, value in checked.items():
            self._recorder.observe(name, value)
        if output is not None or target is not None:
            self._recorder.predicted(*arguments.prediction(output, target))

    def state_dict(self) -> dict[str, Any]:
        """The run so far, for a checkpoint: after `load_state_dict` a new monitor of the model goes on from it.

        It holds numbers and tensors only, which ``torch.load(weights_only=True)`` reads.
        """
        report = self._report(self.diagnose(), ())
        report.history.context = context(self._casebook, report, self._rules)
        return resuming.state_of(report.history, self.step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: with its numbers, its findings, which are not told again, and its count of steps.

        Raises:
            ValueError: The state is damaged, none of a monitor, or of another model.
            RuntimeError: This monitor has seen steps already.
        """
        if self.step:
            raise RuntimeError(f"load_state_dict() comes before the first step, not after {self.step}: watch() anew")
        history, step = resuming.history_of(state, self._recorder.history)
        self._casebook = Casebook.from_list(history.context.get("cases", []))
        self._recorder.resume(history, step)

    def keep_best(self, path: str | os.PathLike[str] = "best.pt") -> BestCheckpoint:
        """Keep the model's ``state_dict`` of the lowest validation loss in a file, from now on.

        A validation pass is over at the next `backward` or at `close`; a loss given to `observe` counts at once. Where
        the weights changed since the pass, nothing is written. Of several processes the first one writes.

        Returns:
            What is in the file: ``.step``, ``.loss``, ``.path``.

        Raises:
            FileNotFoundError: The folder is not there.
            IsADirectoryError: The path is a folder.
            ValueError: The parameters are spread over several processes.
        """
        self._recorder.best = BestCheckpoint(path, self._model)
        return self._recorder.best

    def report(self, path: str | os.PathLike[str] = "netdoctor-report.html") -> Path:
        """Write the run so far as one HTML page that needs no network, and return its path.

        Raises:
            ImportError: jinja2 is not there; says what to install.
            OSError: The file cannot be written.
        """
        from netdoctor.reporters import html

        return html.write(self._report(self.diagnose(), ()), path)

    def close(self) -> None:
        """Remove every hook, flush the reporters; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self._recorder.close()
        self._finalizer.detach()
        diagnosis = Diagnosis(self.step)
        try:
            if self.step or self._recorder.history.facts.unstepped:
                diagnosis = self._judge(wait=True)
        except Exception as error:  # noqa: BLE001  # closing must not hide the user's own exception
            self._fail("the last diagnosis", error)
        losses = () if rank() else self._delivery.close(self._report(diagnosis, ()))
        if losses:
            self._rescue(losses)

    def add_reporter(self, reporter: Reporter) -> None:
        """Tell a further reporter, too, from now on."""
        self._delivery.add(reporter)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict now."""
        from netdoctor.notebook import monitor_html

        return monitor_html(self.history.facts.model, self.overhead, self.diagnose())

    def _step_ended(self) -> None:
        judging = self._schedule.judging
        if rank():
            return  # the first rank judges, and the others do not wait for it
        validated = self._recorder.validated and judging.affords(self._schedule.seconds)  # news, and time went by
        if self.step >= judging.next or not self.step or validated:
            start = perf_counter()
            self._judge(wait=False)
            judging.done(self.step, perf_counter() - start, self._schedule.step_seconds)

    def _judge(self, wait: bool) -> Diagnosis:
        self._recorder.flush(wait)
        diagnosis = self._verdict()
        report = self._report(diagnosis, self._casebook.update(diagnosis))
        self._recorder.history.context = context(self._casebook, report, self._rules)
        if not rank():
            self._delivery.report(report)
        return diagnosis

    def _report(self, diagnosis: Diagnosis, changes: tuple[Change, ...]) -> Report:
        book, history = self._casebook, self._recorder.history
        return Report(diagnosis, changes, book.findings, book.resolved, history, self.overhead, self._schedule.spent)

    def _rescue(self, losses: tuple[str, ...]) -> None:
        """Keep the history of a run that a reporter did not take, and say where."""
        try:
            kept = f"the run is kept: netdoctor report {save_aside(self.history)}" if self.step else "no step was seen"
        except Exception as error:  # noqa: BLE001  # closing must not hide the user's own exception
            kept = f"the run could not be kept: {error}"
        log.warning("%s; %s", "; ".join(losses), kept)

    def _fail(self, what: str, error: Exception) -> None:
        """Say once that a part of netdoctor failed; training goes on without it."""
        if what not in self._faults:
            self._faults[what] = f"{type(error).__name__}: {error}"
            log.warning("%s failed and is switched off; training goes on", what, exc_info=error)


on_watch: list[Callable[[Monitor], object]] = []  # who is told of each new monitor

_monitors: weakref.WeakKeyDictionary[nn.Module, Monitor] = weakref.WeakKeyDictionary()


def monitor_of(model: nn.Module) -> Monitor | None:
    """The monitor that watches a model now."""
    monitor = _monitors.get(getattr(model, "_orig_mod", model))
    return None if monitor is None or monitor.closed else monitor


def _close_apart(reference: weakref.ref[Monitor]) -> None:
    """Close in a context of its own, as the garbage collector may call for at any moment.

    Before Python 3.12 that may be while a context variable is being set: setting another one in the same context, as
    `numpy.errstate` does, would free what the first is reading.
    """
    copy_context().run(_close, reference)


def _close(reference: weakref.ref[Monitor]) -> None:
    monitor = reference()
    if monitor is not None:
        monitor.close()
