"""`NetDoctorCallback` in real trainers of Transformers: small random models, made here."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import transformers
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from netdoctor import Monitor
from netdoctor_transformers import NetDoctorCallback
from tests.twins import same
from tests.wandb_records import records

STEPS, EVERY = 12, 4  # of a training, between evaluations
NORM = 0.5  # that gradients are clipped to
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def gpt2() -> Any:
    torch.manual_seed(0)
    size: dict[str, Any] = {"vocab_size": 32, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, resid_pdrop=0.1))


def texts() -> list[dict[str, Tensor]]:
    rows = (torch.arange(32)[:, None] + torch.arange(12) * 3) % 32
    return [{"input_ids": row, "labels": row} for row in rows]


def vit() -> Any:
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "num_labels": 4,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    return ViTForImageClassification(ViTConfig(**size, image_size=8, patch_size=4, num_channels=1))


def pictures() -> list[dict[str, Any]]:
    x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": picture, "labels": int(picture[0, 0, :4].argmax())} for picture in x]


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], list[dict[str, Any]]]]] = {
    "gpt2": (gpt2, texts),
    "vit": (vit, pictures),
}
each_model = pytest.mark.parametrize("name", MODELS)


def trainer(name: str, folder: Path, *callbacks: Any, model: Any = None, **options: Any) -> Any:
    make, data = MODELS[name]
    examples = data()
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": NORM,
        "learning_rate": 3e-3,
        "eval_strategy": "steps",
        "eval_steps": EVERY,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    arguments = TrainingArguments(str(folder), **(settings | options))
    return Trainer(
        model or make(),
        arguments,
        train_dataset=examples,
        eval_dataset=examples[:8],
        compute_metrics=lambda given: {"spread": float(np.std(given.predictions))},
        callbacks=list(callbacks),
    )


def trained(runs: Any, callback: NetDoctorCallback, **options: Any) -> Monitor:
    runs.train(**options)
    monitor = callback.monitor
    assert monitor is not None
    assert monitor.faults == {}
    assert monitor.closed
    return monitor


def watched(name: str, folder: Path, **options: Any) -> tuple[Any, Monitor]:
    callback = NetDoctorCallback(reporters=[], every=1)
    runs = trainer(name, folder, callback, **options)
    return runs, trained(runs, callback)


def logged(runs: Any, key: str) -> list[float]:
    return [entry[key] for entry in runs.state.log_history if key in entry]


def readings(monitor: Monitor, statistic: str) -> list[float]:
    values: list[float] = monitor.history.series(statistic)[1].tolist()
    return values


@each_model
def test_numbers_are_those_that_the_trainer_logs(name: str, tmp_path: Path) -> None:
    """The gradients before it clips them; the losses of the whole step; the evaluations."""
    runs, monitor = watched(name, tmp_path)
    norms = logged(runs, "grad_norm")
    assert monitor.step == STEPS
    assert readings(monitor, "loss") == pytest.approx(logged(runs, "loss"), rel=1e-4)
    assert readings(monitor, "gradient_norm") == pytest.approx(norms, rel=0.02)  # from samples
    assert readings(monitor, "clipped_gradient_norm") == pytest.approx([min(n, NORM) for n in norms], rel=0.02)
    assert max(norms) > NORM
    assert monitor.history.series("val_loss")[0].tolist() == [4, 8, 12]
    assert readings(monitor, "val_loss") == pytest.approx(logged(runs, "eval_loss"))
    assert readings(monitor, "metric/eval_spread") == pytest.approx(logged(runs, "eval_spread"))
    assert [s for s in monitor.history.statistics if s.startswith("metric/")] == ["metric/eval_spread"]
    assert monitor.history.facts.loss.kind == "cross-entropy"
    assert (monitor.history.table("update_rms").values > 0).any(0).all()
    assert monitor.diagnose().healthy


def test_what_a_padded_text_loses_without_knowledge(tmp_path: Path) -> None:
    """The trainer sums the losses and divides by the number of labels; padding is none of them."""
    callback = NetDoctorCallback(reporters=[], every=1)
    runs = trainer("gpt2", tmp_path, callback)
    for example in runs.train_dataset:
        example["labels"] = torch.where(torch.arange(12) < 6, example["labels"], -100)
    monitor = trained(runs, callback)
    assert readings(monitor, "uninformed_loss") == pytest.approx([np.log(32) * 5 / 6] * STEPS, rel=1e-3)
    assert readings(monitor, "loss")[0] == pytest.approx(np.log(32) * 5 / 6, rel=0.05)  # it counts the first label, too


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_checkpointing": True}], ids=str)
@each_model
def test_training_is_bit_identical(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    def train(*callbacks: Any) -> list[Tensor]:
        runs = trainer(name, tmp_path, *callbacks, **options)
        runs.train()
        return [parameter.detach() for parameter in runs.model.parameters()]

    callback = NetDoctorCallback(reporters=[], every=1)
    assert same(train(), train(callback))
    assert callback.monitor is not None
    assert callback.monitor.faults == {}
    assert len(callback.monitor.history.table("activation_rms")) == STEPS


def test_compiled_by_the_trainer(tmp_path: Path) -> None:
    torch._dynamo.reset()
    runs, monitor = watched("vit", tmp_path, torch_compile=True, torch_compile_backend="eager", max_steps=4)
    assert readings(monitor, "loss") == pytest.approx(logged(runs, "loss"), rel=1e-4)
    assert "classifier" in monitor.history.latest("activation_rms")


def test_one_of_several_data_sets(tmp_path: Path) -> None:
    callback = NetDoctorCallback(reporters=[], val_loss="eval_second_loss")
    runs = trainer("vit", tmp_path, callback)
    runs.eval_dataset = {"first": runs.eval_dataset, "second": runs.train_dataset[16:]}
    monitor = trained(runs, callback)
    assert readings(monitor, "val_loss") == pytest.approx(logged(runs, "eval_second_loss"))
    assert readings(monitor, "metric/eval_first_loss") == pytest.approx(logged(runs, "eval_first_loss"))


# Checkpoints.


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Monitor]:
    """Of the middle of a run, and the monitor of the whole of it."""
    _, monitor = watched("gpt2", tmp_path, save_strategy="steps", save_steps=STEPS // 2)
    assert (tmp_path / "checkpoint-12" / "netdoctor.pt").is_file()
    return tmp_path / "checkpoint-6", monitor


def test_a_resumed_run_goes_on(checkpoint: tuple[Path, Monitor], caplog: pytest.LogCaptureFixture) -> None:
    folder, whole = checkpoint
    callback = NetDoctorCallback(reporters=[], every=1)
    monitor = trained(trainer("gpt2", folder.parent, callback), callback, resume_from_checkpoint=str(folder))
    for name in ("loss", "val_loss", "gradient_norm", "activation_rms", "update_rms"):
        table, expected = monitor.history.table(name), whole.history.table(name)
        assert table.steps.tolist() == expected.steps.tolist(), name
        assert table.columns == expected.columns, name
        assert table.values == pytest.approx(expected.values, rel=1e-4, nan_ok=True), name
    assert not [record for record in caplog.records if record.name == "netdoctor"]


def test_a_checkpoint_elsewhere(checkpoint: tuple[Path, Monitor], tmp_path: Path) -> None:
    moved = tmp_path / "kept"
    shutil.move(checkpoint[0], moved)
    callback = NetDoctorCallback(reporters=[], every=1)
    runs = trainer("gpt2", tmp_path / "new", callback, resume_from_checkpoint=str(moved))
    monitor = trained(runs, callback, resume_from_checkpoint=str(moved))
    assert len(monitor.history.table("loss")) == STEPS


@pytest.mark.parametrize("lost", [True, False])
def test_a_checkpoint_without_its_state(
    checkpoint: tuple[Path, Monitor], lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One from before netdoctor was there, or a damaged one: told once, and watched from here on."""
    folder, _ = checkpoint
    file = folder / "netdoctor.pt"
    if lost:
        file.unlink()
    else:
        file.write_bytes(b"damaged")
    callback = NetDoctorCallback(reporters=[], every=1)
    with caplog.at_level(logging.WARNING, "netdoctor"):
        monitor = trained(trainer("gpt2", folder.parent, callback), callback, resume_from_checkpoint=str(folder))
    assert monitor.step == STEPS // 2
    (message,) = [record.getMessage() for record in caplog.records if record.name == "netdoctor"]
    assert message.startswith("netdoctor begins anew at step 6: ")


def test_a_checkpoint_is_saved_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(monitor: Any) -> None:
        raise OSError("broken")

    monkeypatch.setattr(Monitor, "state_dict", broken)
    watched("vit", tmp_path, save_strategy="steps", save_steps=STEPS)
    assert not (tmp_path / "checkpoint-12" / "netdoctor.pt").exists()
    assert (tmp_path / "checkpoint-12" / "model.safetensors").is_file()


def test_training_again(tmp_path: Path) -> None:
    """After a failure, and after an end."""
    callback = NetDoctorCallback(reporters=[], every=1)
    runs = trainer("vit", tmp_path, callback)
    runs.train_dataset[20]["labels"] = 99
    with pytest.raises(IndexError):
        runs.train()
    first = callback.monitor
    runs.train_dataset[20]["labels"] = 0
    second = trained(runs, callback)
    assert first is not None
    assert first.closed
    assert (second.step, len(second.history.table("loss"))) == (STEPS, STEPS)
    runs.evaluate()
    assert trained(runs, callback) is not second


def test_evaluation_without_a_training(tmp_path: Path) -> None:
    callback = NetDoctorCallback(reporters=[])
    trainer("vit", tmp_path, callback).evaluate()
    assert callback.monitor is None


def test_options_are_checked_at_once() -> None:
    with pytest.raises(TypeError, match="evry"):
        NetDoctorCallback(evry=1)


# Trackers.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for key, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "PROJECT": "test"}.items():
        monkeypatch.setenv(f"WANDB_{key}", value)
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    wandb.teardown()
    mlflow.end_run()


@pytest.mark.parametrize("given", [False, True])
def test_tensorboard(folder: Path, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if given:
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "elsewhere"))
    _, monitor = watched("vit", folder, report_to="tensorboard")
    (events,) = {file.parent for file in folder.glob("**/events.out.tfevents.*")}
    assert (events.name == "elsewhere") == given
    read = EventAccumulator(str(events), {"scalars": 0})
    read.Reload()
    assert [point.step for point in read.Scalars("train/loss")] == list(range(1, STEPS + 1))
    assert [point.value for point in read.Scalars("netdoctor/loss")] == readings(monitor, "loss")
    assert (events / "netdoctor-report.html").is_file()


def test_wandb(folder: Path) -> None:
    runs, monitor = watched("vit", folder, report_to=["wandb"])
    wandb.finish()
    read = records(folder)
    assert [value for _, value in read.of("train/global_step", "train/loss")] == logged(runs, "loss")
    shown = read.of("netdoctor/step", "netdoctor/loss")
    assert shown
    assert all(value == pytest.approx(readings(monitor, "loss")[step - 1]) for step, value in shown)


def test_mlflow(folder: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    _, monitor = watched("vit", folder, report_to=["mlflow"])
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert len(client.get_metric_history(run.info.run_id, "loss")) == STEPS
    points = client.get_metric_history(run.info.run_id, "netdoctor/loss")
    assert [point.value for point in sorted(points, key=lambda point: point.step)] == readings(monitor, "loss")


def test_trackers_can_be_left_out(folder: Path) -> None:
    callback = NetDoctorCallback(reporters=[], trackers=False)
    trained(trainer("vit", folder, callback, report_to="tensorboard"), callback)
    (events,) = {file.parent for file in folder.glob("**/events.out.tfevents.*")}
    assert len(list(events.iterdir())) == 1
