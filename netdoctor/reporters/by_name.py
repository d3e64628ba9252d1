"""Reporters that have a name: where they stand, and how to make one. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from netdoctor.reporters import Reporter
from netdoctor.spelling import nearest

REPORTERS = {  # module and class
    "console": ("netdoctor.reporters.console", "Console"),
    "html": ("netdoctor.reporters.html", "Html"),
    "jsonl": ("netdoctor.reporters.jsonl", "JsonLines"),
    "mlflow": ("netdoctor_mlflow", "MLflowReporter"),
    "tensorboard": ("netdoctor_tensorboard", "TensorBoardReporter"),
    "wandb": ("netdoctor_wandb", "WandbReporter"),
}


def check_name(name: str) -> None:
    """ValueError where no reporter is called so."""
    if name not in REPORTERS:
        raise nearest(name, REPORTERS, "reporter")


def named_reporter(name: str) -> Reporter:
    """A new reporter.

    Raises:
        ValueError: There is none of that name.
        ModuleNotFoundError: It needs a package that is not installed; says which, and how to install it.
    """
    check_name(name)
    module, kind = REPORTERS[name]
    try:
        build: Any = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the reporter {name!r} needs {error.name}: pip install 'netdoctor-torch[{name}]'", name=error.name
        ) from error
    reporter: Reporter = build()
    return reporter
