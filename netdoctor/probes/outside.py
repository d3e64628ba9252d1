"""Keeps `torch.compile` from compiling netdoctor itself.

While a compiled function runs, Dynamo takes up every frame that it meets, hooks that are called behind a graph break
included. What is marked here runs as it stands then. A hook that is met while its module is traced is traced with it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """Never compile this function, nor what it calls, as a frame of its own."""
    return _marked(function, True)


def passing(function: F) -> F:
    """Never compile this function as a frame of its own; what it calls is the program's, and compiled as before."""
    return _marked(function, False)


def _marked(function: F, callees: bool) -> F:
    frames: Any = getattr(torch._C, "_dynamo", None)
    frames = getattr(frames, "eval_frame", None)
    if isinstance(function, FunctionType) and hasattr(frames, "set_code_exec_strategy"):  # not before torch 2.7
        skip, default = frames._FrameAction.SKIP, frames._FrameAction.DEFAULT
        frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip if callees else default))
    return function
