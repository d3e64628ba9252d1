"""Other packages that watch a training, on the same runs: never a dependency, skipped where they are not installed.

Each is used as its own documentation says, with its defaults, and read generously: what it says names the fault if any
of the diseases that it may mean is an accepted cause.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator
from importlib import import_module
from time import perf_counter
from typing import Any, ClassVar, NamedTuple

import torch

from netdoctor import Severity
from tests.clinic.case import Program
from tests.clinic.catalogue import Run, case_of
from tests.clinic.examination import Result, Said, result

COLUMNS = (
    "package",
    "flagged",
    "right cause",
    "alarms a sick run",
    "healthy runs with an alarm",
    "seconds a run",
    "note",
)


Meanings = dict[str, tuple[str, ...]]  # how what a package says starts -> the diseases that it may mean


class Alarm(NamedTuple):
    """What a package said: its words, whether it counts as a warning, where, and at which turn."""

    words: str
    warning: bool
    layers: tuple[str, ...] = ()
    turn: int = 0


class Torchmortem:
    package = "torchmortem"
    meanings: ClassVar[Meanings] = {
        "Vanishing gradients": ("vanishing-gradient", "poor-initialization"),
        "Exploding gradients": ("exploding-gradient", "unnormalized-target", "unnormalized-input", "non-finite"),
        "Gradient stalling": ("no-gradient", "vanishing-gradient", "dead-units", "gradient-underflow"),
        "Dead units": ("dead-units",),
        "Activation saturation": ("saturated-units",),
        "High gradient noise": ("noisy-gradient",),
        "Training divergence": ("diverging-loss", "learning-rate-too-large"),
        "Loss plateau": ("loss-plateau", "not-learning"),
        "Rank collapse": ("representation-collapse",),
        "Update ratio too low": ("learning-rate-too-small", "weights-not-updated"),
        "Update ratio too high": ("learning-rate-too-large",),
        "Weight norm explosion": ("weight-growth",),
        "Stagnant weight": ("weights-not-updated",),
        "Inter-layer weight": ("poor-initialization",),
    }

    def __init__(self, program: Program) -> None:
        self.autopsy: Any = import_module("torchmortem").Autopsy(program.model, optimizer=program.optimizer)
        self.autopsy.attach()

    def turn(self, i: int, loss: float) -> None:
        self.autopsy.step(loss=loss)

    def alarms(self) -> Iterator[Alarm]:
        self.autopsy.detach()
        for finding in self.autopsy.get_report().findings:
            yield Alarm(finding.title, finding.severity >= 1, tuple(finding.affected_layers), self.autopsy._step_count)


class TorchAudit:
    package = "torch_audit"
    meanings: ClassVar[Meanings] = {
        "TA100": ("non-finite",),
        "TA102": ("exploding-gradient", "unnormalized-target", "unnormalized-input"),
        "TA103": ("dead-units", "no-gradient", "vanishing-gradient"),
        "TA104": ("no-gradient", "weights-not-updated"),
        "TA105": ("dead-units",),
        "TA301": ("unnormalized-input",),
        "TA302": ("constant-input",),
        "TA304": ("small-batch-batchnorm",),
        "TA400": ("bias-before-batchnorm",),
        "TA500": ("no-gradient",),
    }
    every = 10  # steps; its default of 1,000 would see the first step only

    def __init__(self, program: Program) -> None:
        auditor = import_module("torch_audit").Auditor
        self.auditor: Any = auditor(program.model, optimizer=program.optimizer, every_n_steps=self.every)
        self.auditor.autopatch()

    def turn(self, i: int, loss: float) -> None:
        """Its patches see the steps."""

    def alarms(self) -> Iterator[Alarm]:
        findings = self.auditor.finish().findings
        self.auditor.unpatch()
        for finding in findings:
            layers = (finding.module_path,) if finding.module_path else ()
            hardware = finding.rule_id.startswith("TA2")
            warning = finding.severity.value != "INFO" and not hardware
            yield Alarm(finding.rule_id, warning, layers, (finding.step or 0) + 1)


class Trainpulse:
    package = "trainpulse"
    meanings: ClassVar[Meanings] = {
        "nan_detector": ("non-finite", "diverging-loss", "learning-rate-too-large"),
        "loss_spike": ("loss-spike", "diverging-loss", "learning-rate-too-large"),
        "gradient Gradient explosion": ("exploding-gradient", "unnormalized-target", "unnormalized-input"),
        "gradient Vanishing": ("vanishing-gradient", "gradient-underflow"),
        "plateau": ("loss-plateau", "not-learning"),
    }

    def __init__(self, program: Program) -> None:
        self.program = program
        self.callback: Any = import_module("trainpulse.callbacks").TrainingCallback()
        self.callback.on_step_begin(0)

    def turn(self, i: int, loss: float) -> None:
        gradients = [p.grad.norm() for p in self.program.model.parameters() if p.grad is not None]
        norm = float(torch.stack(gradients).norm()) if gradients else 0.0
        self.callback.on_step_end(i, loss=loss, grad_norm=norm, lr=self.program.optimizer.param_groups[0]["lr"])
        self.callback.on_step_begin(i + 1)

    def alarms(self) -> Iterator[Alarm]:
        for alert in self.callback.report().alerts:
            if alert.detector != "step_time":
                yield Alarm(f"{alert.detector} {alert.message}", alert.severity.value != "info", (), alert.step)


PEERS: dict[str, type[Torchmortem] | type[TorchAudit] | type[Trainpulse]] = {
    "torchmortem": Torchmortem,
    "torch-audit": TorchAudit,
    "trainpulse": Trainpulse,
}


def missing(name: str) -> str:
    """Why the package cannot run; "" if it can."""
    return "" if importlib.util.find_spec(PEERS[name].package) else "not installed"


def examine(name: str, run: Run) -> Result:
    """One run under the package; where it fails, the failure stands in the result."""
    case, peer = case_of(run), PEERS[name]
    logging.disable(logging.WARNING)
    torch.manual_seed(run.seed)
    program = case.build(run.group == "sick")
    causes = case.causes if run.group == "sick" else ()
    said: dict[str, Said] = {}
    failures: tuple[str, ...] = ()
    start = perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), _last_loss() as loss:
        try:
            watcher = peer(program)
            for turn in range(1, case.steps + 1):
                program.step(turn)
                watcher.turn(turn, loss[0])
            for alarm in watcher.alarms():
                rule = _meant(peer.meanings, alarm.words, causes)
                severity = Severity.WARNING if alarm.warning else Severity.NOTE
                if rule not in said or said[rule].severity < severity:
                    said[rule] = Said(rule, severity, alarm.turn, alarm.turn, alarm.layers, 0.5, alarm.words)
        except Exception as error:  # noqa: BLE001  # a package's fault is its result, not ours
            failures = (f"{type(error).__name__}: {error}",)
    return result(run, case, tuple(said.values()), float("nan"), perf_counter() - start, failures)


def row(name: str, results: list[Result], peer: object = None) -> tuple[str, ...]:
    """Figures of one package, in the order of `COLUMNS`."""
    sick = [r for r in results if r.run.group == "sick"]
    well = [r for r in results if r.run.group != "sick"]
    failed = sum(bool(r.failures) for r in results)

    def share(some: list[bool]) -> str:
        return f"{sum(some) / len(some):.0%}" if some else "–"

    return (
        name,
        share([bool(r.flags) for r in sick]),
        share([r.right for r in sick]),
        f"{sum(len(r.alarms) + r.right for r in sick) / max(len(sick), 1):.1f}",
        share([bool(r.alarms) for r in well]),
        f"{sum(r.seconds for r in results) / max(len(results), 1):.2f}",
        f"failed in {failed} of {len(results)} runs" if failed else "",
    )


def _meant(meanings: Meanings, words: str, causes: tuple[str, ...]) -> str:
    slugs = next((slugs for start, slugs in meanings.items() if words.startswith(start)), ())
    return next((slug for slug in slugs if slug in causes), slugs[0] if slugs else words)


@contextlib.contextmanager
def _last_loss() -> Iterator[list[float]]:
    """A list whose one element is the loss of the last backward pass."""
    seen, original = [float("nan")], torch.Tensor.backward

    def backward(self: torch.Tensor, *args: object, **kwargs: object) -> None:
        seen[0] = float(self.detach().mean())
        original(self, *args, **kwargs)

    torch.Tensor.backward = backward  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        torch.Tensor.backward = original  # type: ignore[method-assign]
