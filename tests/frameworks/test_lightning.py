"""`NetDoctorCallback` in real Lightning trainers, against the plain loop on the same batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import mlflow
import pytest
import torch
import torch.nn.functional as F
import wandb
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import netdoctor
from netdoctor_lightning import NetDoctorCallback
from tests.frameworks.problem import (
    BATCHES,
    SETTINGS,
    Classifier,
    Setting,
    assert_same_numbers,
    each_setting,
    loader,
    plain,
    weights,
)
from tests.twins import same
from tests.wandb_records import records

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


class Module(lightning.LightningModule):
    def __init__(self, logged: str = "val_loss") -> None:
        super().__init__()
        self.net = Classifier().net
        self.logged = logged

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        output = self(batch[0])
        if self.logged:
            self.log(self.logged, F.cross_entropy(output, batch[1]))
            self.log("val/accuracy", (output.argmax(1) == batch[1]).float().mean())
        else:
            F.cross_entropy(output, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Manual(Module):
    """Accumulates, clips and steps by itself."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.setting = setting

    def training_step(self, batch: Any, index: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) / self.setting.accumulated)
        if (index + 1) % self.setting.accumulated == 0:
            if self.setting.clipped is not None:
                self.clip_gradients(optimizer, self.setting.clipped)
            optimizer.step()
            optimizer.zero_grad()


class Adversaries(Module):
    """Two optimizers with a loss each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, index: int) -> None:  # type: ignore[override]
        for optimizer, sign in zip(self.optimizers(), (1, -1), strict=True):
            loss = sign * self.other(self(batch[0])).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 1e-2) for part in (self.net, self.other)]


def trainer(*callbacks: Any, library: Any = lightning, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "max_epochs": 2}
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    options = {"accelerator": "cpu", **quiet, "enable_checkpointing": keeps, **options}
    return library.Trainer(callbacks=list(callbacks), **options)


def fitted(module: Any, *others: Any, ckpt_path: Any = None, weights_only: bool = False, **options: Any) -> Any:
    """The monitor of a training that was sampled at every step."""
    callback = NetDoctorCallback(reporters=[], every=1)
    trainer(callback, *others, **options).fit(
        module, loader(), loader(1), ckpt_path=ckpt_path, weights_only=weights_only
    )
    return callback.monitor


def options_of(setting: Setting) -> dict[str, Any]:
    return {"accumulate_grad_batches": setting.accumulated, "gradient_clip_val": setting.clipped}


@each_setting
def test_automatic_optimisation(setting: Setting) -> None:
    expected, monitor = plain(setting)
    module = Module()
    assert_same_numbers(fitted(module, **options_of(setting)), monitor, without=("leftover_gradient",))
    assert same(expected, weights(module))


@each_setting
def test_manual_optimisation(setting: Setting) -> None:
    expected, monitor = plain(setting)
    module = Manual(setting)
    assert_same_numbers(fitted(module), monitor)
    assert same(expected, weights(module))


def test_two_optimizers() -> None:
    monitor = fitted(Adversaries())
    assert monitor.step == 2 * BATCHES
    assert monitor.faults == {}
    assert monitor.history.facts.several_losses
    assert monitor.history.table("loss").values.shape == (2 * BATCHES, 2)
    assert (monitor.history.table("update_rms").values > 0).any(0).all()


def scaled() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))]}


PRECISIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "bf16-true": lambda: {"precision": "bf16-true"},
    "64-true": lambda: {"precision": "64-true"},
    "16-mixed": scaled,
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision(precision: str) -> None:
    """Bit-identical to an unwatched training, and gradients without their scale."""

    def train(*callbacks: Any) -> list[Tensor]:
        module = Module()
        trainer(*callbacks, gradient_clip_val=0.1, **PRECISIONS[precision]()).fit(module, loader(), loader(1))
        return weights(module)

    callback = NetDoctorCallback(reporters=[], every=1)
    assert same(train(), train(callback))
    history = callback.monitor.history  # type: ignore[union-attr]
    assert callback.monitor.faults == {}  # type: ignore[union-attr]
    _, full = plain(SETTINGS["clipped"])
    for name in ("loss", "gradient_norm"):
        assert history.table(name).values[0] == pytest.approx(full.history.table(name).values[0], rel=0.05), name
    assert history.table("clipped_gradient_norm").values == pytest.approx(0.1, rel=0.02)


def test_validation_is_what_the_program_logs() -> None:
    monitor = fitted(Module())
    logged: list[dict[str, float]] = []

    class Keep(lightning.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    again = fitted(Module(), Keep())
    for run in (monitor, again):
        for name, metric in (("val_loss", "val_loss"), ("metric/val/accuracy", "val/accuracy")):
            steps, values = run.history.series(name)
            assert steps.tolist() == [BATCHES, 2 * BATCHES], name
            assert values.tolist() == pytest.approx([metrics[metric] for metrics in logged]), name
    assert "metric/train_loss" in monitor.history.statistics


@pytest.mark.parametrize("logged", ["valid/loss", ""])
def test_validation_by_another_name_or_none(logged: str) -> None:
    """By the name given; else where the validation step calls a loss function of torch."""
    expected = fitted(Module()).history.series("val_loss")
    callback = NetDoctorCallback(reporters=[], every=1, val_loss=logged or "val_loss")
    trainer(callback).fit(Module(logged), loader(), loader(1))
    steps, values = callback.monitor.history.series("val_loss")  # type: ignore[union-attr]
    assert steps.tolist() == expected[0].tolist()
    assert values == pytest.approx(expected[1])


@pytest.mark.parametrize("checks", [0, 2, -1])
def test_sanity_checks_are_no_validation(checks: int) -> None:
    monitor = fitted(Module(logged=""), num_sanity_val_steps=checks)
    assert monitor.history.series("val_loss")[0].tolist() == [BATCHES, 2 * BATCHES]
    assert monitor.history.table("val_training_share").steps.tolist() in ([], [BATCHES, 2 * BATCHES])


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_resumed_run_goes_on(tmp_path: Path, weights_only: bool, caplog: pytest.LogCaptureFixture) -> None:
    whole = fitted(Module(), max_epochs=4)
    kept = ModelCheckpoint(tmp_path, filename="kept", every_n_epochs=2, save_top_k=-1)
    first = fitted(Module(), kept)
    state = torch.load(tmp_path / "kept.ckpt", weights_only=weights_only)["callbacks"]
    assert "NetDoctorCallback" in state
    module = Module()
    monitor = fitted(module, max_epochs=4, ckpt_path=tmp_path / "kept.ckpt", weights_only=weights_only)
    assert first.step == 2 * BATCHES
    for name in ("loss", "val_loss", "gradient_norm", "activation_rms", "update_ratio", "weight_rms", "learning_rate"):
        table, expected = monitor.history.table(name), whole.history.table(name)
        assert table.steps.tolist() == expected.steps.tolist(), name
        assert table.columns == expected.columns, name
        assert table.values == pytest.approx(expected.values, rel=1e-5), name
    assert monitor.findings == whole.findings
    assert not [record for record in caplog.records if record.name == "netdoctor"]


class Told:
    """A reporter that keeps what is new."""

    def __init__(self) -> None:
        self.changes: list[Any] = []

    def report(self, report: Any) -> None:
        self.changes += report.changes

    def close(self, report: Any) -> None: ...


class Sick(Module):
    """Ten layers that no signal gets through."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(*(torch.nn.Linear(12, 12) for _ in range(9)), torch.nn.Linear(12, 4))
        for layer in self.net:
            torch.nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]


def test_findings_are_not_told_again(tmp_path: Path) -> None:
    told = Told(), Told()
    for reporter, epochs in zip(told, (2, 4), strict=True):
        callback = NetDoctorCallback([reporter], every=1)
        runs = trainer(callback, ModelCheckpoint(tmp_path, save_last=True), max_epochs=epochs)
        runs.fit(Sick(), loader(), ckpt_path=tmp_path / "last.ckpt" if epochs == 4 else None)
    assert "poor-initialization" in [change.finding.rule for change in told[0].changes]
    assert "raised" not in [c.kind for c in told[1].changes if c.finding.rule == "poor-initialization"]
    assert callback.monitor is not None
    assert callback.monitor.findings[0] == told[0].changes[0].finding


def test_a_checkpoint_of_another_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The training goes on, and is watched from here on."""
    callback = NetDoctorCallback(reporters=[], every=1)
    trainer(callback).fit(Adversaries(), loader())
    state = callback.state_dict()
    other = NetDoctorCallback(reporters=[], every=1)
    other.load_state_dict(state)
    with caplog.at_level(logging.WARNING, "netdoctor"):
        trainer(other).fit(Module(), loader())
    assert other.monitor is not None
    assert other.monitor.step == 2 * BATCHES
    (message,) = [record.getMessage() for record in caplog.records if record.name == "netdoctor"]
    assert (
        message
        == "netdoctor begins anew: the state is of another model: they differ in other, other.bias, other.weight"
    )


def test_a_checkpoint_is_saved_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(monitor: Any) -> None:
        raise OSError("broken")

    monkeypatch.setattr(netdoctor.Monitor, "state_dict", broken)
    fitted(Module(), ModelCheckpoint(tmp_path, filename="kept"))
    assert "NetDoctorCallback" not in torch.load(tmp_path / "kept.ckpt", weights_only=False)["callbacks"]


def test_fit_called_again() -> None:
    callback = NetDoctorCallback(reporters=[], every=1)
    runs = trainer(callback)
    module = Module()
    runs.fit(module, loader(), loader(1))
    first = callback.monitor
    runs.fit_loop.max_epochs = 4
    runs.fit(module, loader(), loader(1))
    assert callback.monitor is not first
    assert callback.monitor is not None
    assert callback.monitor.history.series("loss")[0].tolist() == list(range(1, 4 * BATCHES + 1))


def test_an_exception_closes_the_monitor() -> None:
    class Failing(Module):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("the user's own")

    callback = NetDoctorCallback(reporters=[])
    with pytest.raises(RuntimeError, match="the user's own"):
        trainer(callback).fit(Failing(), loader())
    assert callback.monitor is not None
    assert callback.monitor.closed
    assert callback.monitor.step == BATCHES


def test_validate_and_test_outside_of_fit() -> None:
    callback = NetDoctorCallback(reporters=[])
    runs = trainer(callback)
    runs.validate(Module(), loader(), verbose=False)
    assert callback.monitor is None
    assert callback.state_dict() == {}


def test_the_older_package() -> None:
    import pytorch_lightning

    module = Module()

    class Older(pytorch_lightning.LightningModule):
        forward, training_step = Module.forward, Module.training_step
        configure_optimizers = Module.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.net = module.net

    callback = NetDoctorCallback(reporters=[], every=1)
    trainer(callback, library=pytorch_lightning).fit(Older(), loader())
    assert callback.monitor is not None
    assert_same_numbers(callback.monitor, plain()[1], without=("leftover_gradient",))


def test_compiled_modules() -> None:
    class Quiet(Module):
        def log(self, *args: Any, **options: Any) -> None: ...  # Lightning's own cannot be compiled

    callback = NetDoctorCallback(reporters=[], every=1)
    trainer(callback, max_epochs=1).fit(torch.compile(Quiet(), backend="eager"), loader())
    assert callback.monitor is not None
    assert len(callback.monitor.history.table("loss")) == BATCHES
    assert len(callback.monitor.history.table("gradient_norm")) == BATCHES
    assert callback.monitor.faults == {}


def test_options_are_checked_at_once() -> None:
    with pytest.raises(TypeError, match="evry"):
        NetDoctorCallback(evry=1)


# Loggers.


@pytest.fixture
def trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    yield tmp_path
    wandb.teardown()


def logged_run(logger: Any) -> netdoctor.Monitor:
    callback = NetDoctorCallback(reporters=[], every=1)
    trainer(callback, logger=logger, log_every_n_steps=1).fit(Sick(), loader(), loader(1))
    assert callback.monitor is not None
    assert callback.monitor.faults == {}
    return callback.monitor


def test_tensorboard_logger(trackers: Path) -> None:
    logger = TensorBoardLogger(trackers)
    monitor = logged_run(logger)
    read = EventAccumulator(logger.log_dir, {"scalars": 0, "images": 0, "tensors": 0})
    read.Reload()
    assert len(read.Scalars("train_loss")) == 2 * BATCHES
    steps, values = monitor.history.series("loss")
    shown = [(point.step, point.value) for point in read.Scalars("netdoctor/loss")]
    assert shown == list(zip(steps.tolist(), values.tolist(), strict=True))
    assert "netdoctor/metric/val/accuracy" in read.Tags()["scalars"]
    assert "netdoctor/findings/text_summary" in read.Tags()["tensors"]


def test_mlflow_logger(trackers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the logger's own server, whatever the global one is."""
    monkeypatch.chdir(trackers)
    logger = MLFlowLogger("test", tracking_uri=f"sqlite:///{trackers / 'own.db'}")
    monitor = logged_run(logger)
    client: Any = logger.experiment
    points = client.get_metric_history(logger.run_id, "netdoctor/loss")
    assert sorted(point.step for point in points) == monitor.history.series("loss")[0].tolist()
    run = client.get_run(logger.run_id)
    assert run.data.tags["netdoctor.worst"] in {finding.rule for finding in monitor.findings}
    assert run.info.status == "FINISHED"
    assert mlflow.active_run() is None


def test_wandb_logger(trackers: Path) -> None:
    logger = WandbLogger(project="test", save_dir=str(trackers), offline=True)
    monitor = logged_run(logger)
    wandb.finish()
    read = records(trackers)
    assert [step for step, _ in read.of("trainer/global_step", "train_loss")] == list(range(2 * BATCHES))
    shown = read.of("netdoctor/step", "netdoctor/loss")
    assert shown
    losses = dict(zip(*(column.tolist() for column in monitor.history.series("loss")), strict=True))
    assert all(value == pytest.approx(losses[step]) for step, value in shown)
    assert read.summary["netdoctor/worst"] in {finding.rule for finding in monitor.findings}


def test_loggers_can_be_left_out(trackers: Path) -> None:
    logger = TensorBoardLogger(trackers)
    callback = NetDoctorCallback(reporters=[], loggers=False)
    trainer(callback, logger=logger).fit(Module(), loader())
    read = EventAccumulator(logger.log_dir)
    read.Reload()
    assert not [tag for tag in read.Tags()["scalars"] if tag.startswith("netdoctor")]


def test_a_missing_package_is_told(trackers: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "netdoctor_tensorboard", None)
    with caplog.at_level(logging.WARNING, "netdoctor"):
        callback = NetDoctorCallback(reporters=[])
        trainer(callback, logger=TensorBoardLogger(trackers)).fit(Module(), loader())
    assert callback.monitor is not None
    assert callback.monitor.step == 2 * BATCHES
    (message,) = [record.getMessage() for record in caplog.records if record.name == "netdoctor"]
    assert message == "netdoctor does not report to TensorBoardLogger, for netdoctor_tensorboard is not installed"
