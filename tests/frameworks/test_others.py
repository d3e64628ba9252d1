"""Accelerate, Ignite and skorch need nothing: `netdoctor.watch(model)` sees in them what it sees in a plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Loss
from skorch import NeuralNetClassifier
from torch import nn

from tests.frameworks.problem import (
    BATCH,
    BATCHES,
    Classifier,
    Setting,
    assert_same_numbers,
    each_setting,
    examples,
    loader,
    plain,
    weights,
)
from tests.twins import same, silent


@each_setting
def test_accelerate(setting: Setting) -> None:
    expected, plainly = plain(setting)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=setting.accumulated)
    with silent(model, every=1) as monitor:
        prepared, stepping, batches = accelerator.prepare(model, optimizer, loader())
        for _ in range(2):
            for x, y in batches:
                with accelerator.accumulate(prepared):
                    accelerator.backward(F.cross_entropy(prepared(x), y))
                    if accelerator.sync_gradients and setting.clipped is not None:
                        accelerator.clip_grad_norm_(prepared.parameters(), setting.clipped)
                    stepping.step()
                    stepping.zero_grad()
    assert_same_numbers(monitor, plainly)
    assert same(expected, weights(model))


def test_accelerate_in_mixed_precision() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process
    model = Classifier()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    prepared, stepping, batches = accelerator.prepare(model, optimizer, loader())
    with silent(prepared, every=1) as monitor:
        for x, y in batches:
            accelerator.backward(F.cross_entropy(prepared(x), y))
            stepping.step()
            stepping.zero_grad()
    assert monitor.step == BATCHES
    assert monitor.history.facts.layer("net.0").dtype == "bfloat16"
    assert monitor.faults == {}
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ignite() -> None:
    """With its validation, whose loss is read where it is computed."""
    expected, plainly = plain()
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    evaluator = create_supervised_evaluator(model, {"loss": Loss(nn.CrossEntropyLoss())})
    seen: list[float] = []

    def validate(engine: Engine) -> None:
        evaluator.run(loader(1))
        seen.append(evaluator.state.metrics["loss"])

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    with silent(model, every=1) as monitor:
        trainer.run(loader(), max_epochs=2)
    assert_same_numbers(monitor, plainly, without=("leftover_gradient",))
    assert same(expected, weights(model))
    steps, values = monitor.history.series("val_loss")
    assert steps.tolist() == [BATCHES, 2 * BATCHES]
    assert values.tolist() == pytest.approx(seen)


def test_skorch() -> None:
    """Its own loop, which steps with closures; it logs the validation loss of each epoch."""
    data, held_out = examples(), examples(1)

    def split(given: Any, y: Any = None) -> tuple[Any, Any]:
        return given, held_out

    net = NeuralNetClassifier(
        Classifier,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-2,
        max_epochs=2,
        batch_size=BATCH,
        train_split=split,
        classes=range(4),
        verbose=0,
    )
    net.initialize()
    expected, plainly = plain()
    with silent(net.module_, every=1) as monitor:
        net.partial_fit(data, None)
    assert_same_numbers(monitor, plainly, without=("leftover_gradient",))
    assert same(expected, weights(net.module_))
    steps, values = monitor.history.series("val_loss")
    assert steps.tolist() == [BATCHES, 2 * BATCHES]
    assert values.tolist() == pytest.approx(net.history[:, "valid_loss"])


def test_a_plain_loop_is_as_without() -> None:
    """And it is what the others are compared with."""
    expected, _ = plain()
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(2):
        for x, y in loader():
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert same(expected, weights(model))
