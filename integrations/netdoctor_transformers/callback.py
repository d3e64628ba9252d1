"""The callback: a monitor of the model from the beginning to the end of `Trainer.train`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import netdoctor
from netdoctor.reporters import Reporter
from netdoctor_transformers.trackers import reporters_of

STATE = "netdoctor.pt"  # in each checkpoint's folder
TIMES = ("_runtime", "_per_second", "_time", "epoch")  # ends of the names of what an evaluation says of itself

log = logging.getLogger("netdoctor")


class NetDoctorCallback(TrainerCallback):
    """Says what is wrong with the training of a `Trainer`'s model.

    Gradients are those before the trainer clips them, accumulated as the optimizer gets them. The validation loss is
    that of the evaluations during the training. What is known of the run is kept in the trainer's checkpoints, so that
    a run which is resumed goes on with its numbers, findings and count of steps.

    Args:
        reporters: As `netdoctor.watch` takes them.
        trackers: Whether what ``report_to`` names is reported to as well: W&B, TensorBoard and MLflow.
        val_loss: Name of the validation loss among the metrics of an evaluation; "eval_test_loss" of one of several
            data sets.
        **options: What else `netdoctor.watch` takes: rules, ignore, budget, every, layers.

    Attributes:
        monitor: Of the last `train`; None before the first.

    Raises:
        TypeError: `netdoctor.watch` takes no such option.
    """

    def __init__(
        self,
        reporters: Iterable[str | Reporter] = ("console",),
        *,
        trackers: bool = True,
        val_loss: str = "eval_loss",
        **options: Any,
    ) -> None:
        inspect.signature(netdoctor.watch).bind(None, reporters=reporters, **options)
        self.monitor: netdoctor.Monitor | None = None
        self._reporters = [reporters] if isinstance(reporters, str) else list(reporters)
        self._trackers = trackers
        self._val_loss = val_loss
        self._options = options

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.monitor is not None:
            self.monitor.close()  # of a training that failed
        reporters: list[str | Reporter] = []
        if state.is_world_process_zero:
            reporters = [*self._reporters, *(reporters_of(args) if self._trackers else ())]
        self.monitor = netdoctor.watch(kwargs["model"], reporters=reporters, **self._options)
        if state.global_step:
            self._resume(args, state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.monitor is None or self.monitor.closed:
            return
        numbers: dict[str, Any] = {
            name: value
            for name, value in (metrics or {}).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not name.endswith(TIMES)
        }
        val_loss = numbers.pop(self._val_loss, None)
        self.monitor.observe(val_loss=val_loss, **numbers)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = _checkpoint(args.output_dir, state)
        if self.monitor is not None and state.is_world_process_zero and folder.is_dir() and not args.save_only_model:
            try:
                torch.save(self.monitor.state_dict(), folder / STATE)
            except Exception:  # the training goes on, whatever becomes of netdoctor's part in the checkpoint
                log.warning("netdoctor's state is not in %s", folder, exc_info=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def _resume(self, args: TrainingArguments, state: TrainerState) -> None:
        """Go on from what the checkpoint of this step keeps; the trainer does not say where it lies."""
        given = args.resume_from_checkpoint
        folders = [_checkpoint(args.output_dir, state), *([Path(given)] if isinstance(given, str) else ())]
        file = next((folder / STATE for folder in folders if (folder / STATE).is_file()), None)
        try:
            if file is None:
                raise FileNotFoundError(f"there is no {STATE} in {' or '.join(map(str, folders))}")
            if self.monitor is not None:
                self.monitor.load_state_dict(torch.load(file, weights_only=True))
        except Exception as error:  # noqa: BLE001  # a damaged file, another model: the training goes on all the same
            log.warning("netdoctor begins anew at step %d: %s", state.global_step, error)


def _checkpoint(output: str | None, state: TrainerState) -> Path:
    return Path(output or ".", f"checkpoint-{state.global_step}")
