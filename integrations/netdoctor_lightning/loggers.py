"""Lightning's loggers as reporters: what netdoctor sees goes to the run that the program logs to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from netdoctor.reporters import Reporter

log = logging.getLogger("netdoctor")


def reporters_of(loggers: Iterable[Any]) -> list[Reporter]:
    """A reporter for each logger that there is one for; one whose package is missing is told and left out."""
    found: list[Reporter] = []
    for logger in loggers:
        kinds = {kind.__name__ for kind in type(logger).__mro__}  # of lightning and of pytorch_lightning
        for name in kinds & _REPORTERS.keys():
            try:
                found.append(_REPORTERS[name](logger))
            except ModuleNotFoundError as error:
                log.warning("netdoctor does not report to %s, for %s is not installed", name, error.name)
    return found


def _wandb(logger: Any) -> Reporter:
    from netdoctor_wandb import WandbReporter

    return WandbReporter(logger.experiment)


def _tensorboard(logger: Any) -> Reporter:
    from netdoctor_tensorboard import TensorBoardReporter

    return TensorBoardReporter(logger.experiment)


def _mlflow(logger: Any) -> Reporter:
    from netdoctor_mlflow import MLflowReporter

    client = logger.experiment
    return MLflowReporter(logger.run_id, client=client)


_REPORTERS: dict[str, Callable[[Any], Reporter]] = {
    "MLFlowLogger": _mlflow,
    "TensorBoardLogger": _tensorboard,
    "WandbLogger": _wandb,
}
