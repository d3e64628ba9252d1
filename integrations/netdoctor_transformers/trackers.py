"""What ``report_to`` names, as reporters."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from transformers import TrainingArguments

from netdoctor.reporters import Reporter

log = logging.getLogger("netdoctor")


def reporters_of(args: TrainingArguments) -> list[Reporter]:
    """A reporter for each tracker that there is one for; one whose package is missing is told and left out."""
    found: list[Reporter] = []
    for name in args.report_to if isinstance(args.report_to, list) else [args.report_to]:
        if name in _REPORTERS:
            try:
                found.append(_REPORTERS[name](args))
            except ModuleNotFoundError as error:
                log.warning("netdoctor does not report to %s, for %s is not installed", name, error.name)
    return found


def _wandb(args: TrainingArguments) -> Reporter:
    from netdoctor_wandb import WandbReporter

    return WandbReporter()


def _mlflow(args: TrainingArguments) -> Reporter:
    from netdoctor_mlflow import MLflowReporter

    return MLflowReporter()


def _tensorboard(args: TrainingArguments) -> Reporter:
    from netdoctor_tensorboard import TensorBoardReporter

    return TensorBoardReporter(_events(args))


def _events(args: TrainingArguments) -> Path:
    """The folder in which the trainer has just begun to write its events: it names it by the time of day."""
    given = os.environ.get("TENSORBOARD_LOGGING_DIR")
    root = Path(given).expanduser() if given else Path(args.output_dir or ".", "runs")
    files = sorted(root.glob("**/events.out.tfevents.*"), key=lambda file: file.stat().st_mtime)
    return files[-1].parent if files else root


_REPORTERS: dict[str, Callable[[TrainingArguments], Reporter]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
