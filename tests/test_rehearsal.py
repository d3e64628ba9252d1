"""`netdoctor run --trial`: remedies are tried on copies, and the training goes as without."""

from __future__ import annotations

import copy
import functools
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.running.recording import Batch, Recording, loss_fn
from tests.processes import netdoctor, own_lines, run

TRAIN = """
import sys

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
std, accumulated = float(sys.argv[1]), int(sys.argv[2])
hidden = [module for _ in range(6) for module in (nn.Linear(64, 64), nn.Tanh())]
model = nn.Sequential(*hidden, nn.Dropout(0.1), nn.Linear(64, 10))
for module in hidden[::2]:
    nn.init.normal_(module.weight, std=std)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x = torch.randn(512, 64)
y = (x @ torch.randn(64, 10)).argmax(1)
for step in range(60):
    optimizer.zero_grad()
    for _ in range(accumulated):
        batch = torch.randint(0, 512, (32,))
        F.cross_entropy(model(x[batch]), y[batch]).backward()
    optimizer.step()
print([p.double().sum().item() for p in model.parameters()], torch.rand(1).item())
"""


@functools.cache
def plain(std: str, accumulated: str) -> str:
    """What the program prints without netdoctor."""
    return run(sys.executable, "-c", TRAIN, std, accumulated).stdout


def train(folder: Path, *options: str, std: str = "0.01", accumulated: str = "1") -> tuple[str, list[str]]:
    (folder / "train.py").write_text(TRAIN)
    done = netdoctor("run", *options, "train.py", std, accumulated, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain(std, accumulated)  # bit by bit
    return done.stdout, [line for line in own_lines(done.stderr) if re.search("[Tt]rial|Trying|Take", line)]


def test_the_remedy_that_cures_is_named_and_the_training_goes_as_without(tmp_path: Path) -> None:
    _, said = train(tmp_path, "--trial")
    assert said[0] == "netdoctor  Trying 2 remedies on copies, 60 steps each from the weights of the start."
    assert said[-1].startswith("netdoctor  Take: ")


def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert train(tmp_path)[1] == []


def test_of_a_sound_training_nothing_is_said(tmp_path: Path) -> None:
    assert train(tmp_path, "--trial", std="0.2")[1] == []


def test_steps_that_cannot_be_made_again_are_said(tmp_path: Path) -> None:
    _, said = train(tmp_path, "--trial", accumulated="2")
    assert said == ["netdoctor  No trial of remedies: the model is called several times a step."]


class Returning(nn.Module):
    """Returns its loss, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, inputs: Tensor, labels: Tensor) -> Any:
        return {"loss": F.cross_entropy(self.body(inputs), labels), "logits": 0}


def _pair(model: nn.Module) -> Tensor:
    loss: Tensor = nn.CrossEntropyLoss(label_smoothing=0.1)(model(torch.randn(8, 6)), torch.randint(4, (8,)))
    return loss


def _flattened(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(torch.randn(8, 5, 6)).flatten(0, 1), torch.randint(4, (40,)))


def _transposed(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(torch.randn(8, 5, 6)).transpose(1, 2), torch.randint(4, (8, 5)))


def _last_column(model: nn.Module) -> Tensor:
    return F.mse_loss(model(torch.randn(8, 6))[:, -1], target=torch.randn(8))


def _own(model: nn.Module) -> Tensor:
    loss: Tensor = model(inputs=torch.randn(8, 6), labels=torch.randint(4, (8,)))["loss"]
    return loss


def record(model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int = 4) -> tuple[Recording, list[float]]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recording, losses = Recording(model, 3), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return recording, losses


@pytest.mark.parametrize("form", [_pair, _flattened, _transposed, _last_column, _own])
def test_a_recorded_step_gives_the_same_loss(form: Callable[[nn.Module], Tensor]) -> None:
    torch.manual_seed(0)
    model = Returning() if form is _own else nn.Linear(6, 4)
    twin = copy.deepcopy(model)
    recording, losses = record(model, form)
    assert recording.trouble == ""
    assert not recording.open, "it ends by itself"
    assert len(recording.batches) == 3
    assert recording.initial is not None
    initial, optimizer = recording.initial
    assert all(torch.equal(a, b) for a, b in zip(initial.parameters(), twin.parameters(), strict=True))
    place = 3 - len(recording.batches)  # of the first step the loss function may not have been seen
    again = []
    if place:
        pytest.skip("the first batch is not there")
    for batch in recording.batches:
        optimizer.zero_grad()
        value = loss_fn(initial, batch)
        value.backward()
        optimizer.step()
        again.append(value.item())
    assert again == losses[:3]
    assert not model._forward_hooks


def _penalised(model: nn.Module) -> Tensor:
    return _pair(model) + 1e-3 * sum(p.square().sum() for p in model.parameters())


def _by_hand(model: nn.Module) -> Tensor:
    loss: Tensor = (model(torch.randn(8, 6)) - 1).square().mean()
    return loss


def _twice(model: nn.Module) -> Tensor:
    return _pair(model) + _pair(model)


def _softened(model: nn.Module) -> Tensor:
    return F.mse_loss(model(torch.randn(8, 6)).sigmoid(), torch.rand(8, 4))


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (_penalised, "is not what one of torch's loss functions"),
        (_by_hand, "is not what one of torch's loss functions"),
        (_twice, "several times a step"),
        (_softened, "something else than the model's output"),
    ],
)
def test_what_cannot_be_made_again_is_told(form: Callable[[nn.Module], Tensor], why: str) -> None:
    model = nn.Linear(6, 4)
    recording, _ = record(model, form)
    assert why in recording.trouble
    assert not model._forward_hooks


def test_copies_and_pickles_of_a_recorded_model_record_nothing() -> None:
    model = nn.Linear(6, 4)
    recording = Recording(model, 3)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        _pair(other).backward()
        torch.optim.SGD(other.parameters(), 0.1).step()
    assert [batch for batch in recording.batches if isinstance(batch, Batch)] == []
    recording.stop()
    assert not model._forward_hooks
