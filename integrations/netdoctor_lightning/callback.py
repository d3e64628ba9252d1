"""The callback: a monitor of the module from the first training step to the end of `Trainer.fit`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import netdoctor
from netdoctor.reporters import Reporter
from netdoctor_lightning.loggers import reporters_of

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:  # the same under the name of its older package
        from pytorch_lightning import Callback

log = logging.getLogger("netdoctor")

GIVEN = ("loss", "output", "target")  # metrics of these names would pass for what `observe` takes under them


class NetDoctorCallback(Callback):
    """Says what is wrong with the training of a module.

    It begins after the sanity check, whose passes are none of the validation. What it knows of the run is in the
    trainer's checkpoints, so that a run which is resumed goes on with its numbers, findings and count of steps.

    Args:
        reporters: As `netdoctor.watch` takes them.
        loggers: Whether the trainer's loggers are reported to as well: W&B, TensorBoard and MLflow.
        val_loss: Name of the logged metric that is the validation loss; where none of that name is logged, the loss
            that the validation step computes with one of torch's loss functions counts.
        **options: What else `netdoctor.watch` takes: rules, ignore, budget, every, layers.

    Attributes:
        monitor: Of the last `fit`; None before the first.

    Raises:
        TypeError: `netdoctor.watch` takes no such option.
    """

    def __init__(
        self,
        reporters: Iterable[str | Reporter] = ("console",),
        *,
        loggers: bool = True,
        val_loss: str = "val_loss",
        **options: Any,
    ) -> None:
        inspect.signature(netdoctor.watch).bind(None, reporters=reporters, **options)
        self.monitor: netdoctor.Monitor | None = None
        self._reporters = [reporters] if isinstance(reporters, str) else list(reporters)
        self._loggers = loggers
        self._val_loss = val_loss
        self._options = options
        self._state: dict[str, Any] | None = None  # of the run to go on with

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._state is None and self.monitor is not None and trainer.global_step:
            self._state = self.monitor.state_dict()  # `fit` is called again
        reporters: list[str | Reporter] = []
        if trainer.is_global_zero:
            reporters = [*self._reporters, *(reporters_of(trainer.loggers) if self._loggers else ())]
        self.monitor = netdoctor.watch(pl_module, reporters=reporters, **self._options)
        state, self._state = self._state, None
        if state is not None:
            try:
                self.monitor.load_state_dict(state)
            except (ValueError, RuntimeError) as error:
                log.warning("netdoctor begins anew: %s", error)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._observe(trainer, validated=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._observe(trainer, validated=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def state_dict(self) -> dict[str, Any]:
        if self.monitor is None:
            return self._state or {}
        try:
            return self.monitor.state_dict()
        except Exception:  # a checkpoint is saved, whatever becomes of netdoctor's part in it
            log.warning("netdoctor's state is not in the checkpoint", exc_info=True)
            return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict

    def _observe(self, trainer: Trainer, validated: bool) -> None:
        """Pass on what the program logged."""
        if self.monitor is None or self.monitor.closed:
            return  # a validation outside of `fit`, or the sanity check
        metrics = dict(trainer.callback_metrics)
        val_loss = metrics.pop(self._val_loss, None)
        scalars = {name: value for name, value in metrics.items() if name not in (*GIVEN, "val_loss")}
        self.monitor.observe(val_loss=val_loss if validated else None, **scalars)

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()
