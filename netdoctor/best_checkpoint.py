"""Keeps the weights of the best validation loss in a file."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("netdoctor")


class BestCheckpoint:
    """The model's ``state_dict`` after the step whose validation loss was the lowest so far.

    A file is written beside the one before, flushed to the disk, and renamed: where that fails, as on a full disk, the
    older one stays.

    Args:
        path: The file.
        model: Gives the model; None once it is gone.

    Attributes:
        step: Optimizer step of the weights in it; 0 before the first validation pass.
        loss: Their validation loss; infinite before.

    Raises:
        FileNotFoundError: The folder is not there.
        IsADirectoryError: The path is a folder.
        ValueError: The parameters are spread over several processes.
    """

    def __init__(self, path: str | os.PathLike[str], model: Callable[[], nn.Module | None]) -> None:
        self.path = Path(path)
        self.step, self.loss = 0, math.inf
        if self.path.is_dir():
            raise IsADirectoryError(f"keep_best takes the path of a file, and {self.path} is a folder")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path.parent} is not there: make the folder of the checkpoint first")
        watched = model()
        if watched is not None and any(hasattr(parameter, "device_mesh") for parameter in watched.parameters()):
            raise ValueError("keep_best cannot save sharded parameters: use torch.distributed.checkpoint")
        self._model = model
        self._versions: tuple[int, ...] = ()
        self._buffers: dict[str, Tensor] = {}
        self._decided: tuple[int, Tensor | float] | None = None

    def evaluated(self, opens: bool) -> None:
        """A validation batch, the first of its pass or not, went through the model: note the weights that it met."""
        self._versions, model = self._now(), self._model()
        if opens and model is not None:  # the next training pass changes buffers before its backward ends this one
            self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    def decide(self, latest: tuple[int, Tensor | float] | None) -> None:
        """Keep the weights if the pass that is over, its step and mean loss, was the best; those that it met only."""
        if latest is not None and latest is not self._decided:
            self._decided = latest
            if self._versions == self._now():
                self._keep(*latest, self._buffers)
            elif latest[1] < self.loss:
                log.warning("the weights of step %d changed after validation, and are not kept", latest[0])

    def observed(self, step: int, loss: Tensor | float) -> None:
        """Keep the weights as they are now, if ``loss`` is the lowest so far; waits for the device."""
        self._keep(step, loss, {})

    def _keep(self, step: int, loss: Tensor | float, buffers: dict[str, Tensor]) -> None:
        model, value = self._model(), float(loss)
        if model is None or not value < self.loss:
            return
        try:
            self._write({name: buffers.get(name, value) for name, value in model.state_dict().items()})
        except Exception as error:  # noqa: BLE001  # whatever a model's own state_dict raises: training goes on
            kept = f"that of step {self.step} stays" if self.step else "there is none yet"
            log.warning("the checkpoint of step %d could not be written to %s; %s: %s", step, self.path, kept, error)
            return
        self.step, self.loss = step, value

    def _write(self, state: dict[str, Any]) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)

    def _now(self) -> tuple[int, ...]:
        """Changes with every write to a parameter."""
        model = self._model()
        return () if model is None else tuple(parameter._version for parameter in model.parameters())
