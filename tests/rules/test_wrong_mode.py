"""wrong-mode on real runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from netdoctor.findings import Severity
from netdoctor.rules.wrong_mode import wrong_mode as rule
from tests.rules.rounds import rounds, rows

HELD_OUT = rows(64, 6, seed=1)()


def network(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.ReLU(), nn.Linear(16, 1))


def normed() -> nn.Sequential:
    return network(nn.BatchNorm1d(16))


def dropped() -> nn.Sequential:
    return network(nn.Dropout(0.3))


def validate(model: nn.Module, every: int, evaluate: bool, back: bool = True) -> Callable[[int], None]:
    def after(step: int) -> None:
        if step % every == 0:
            mode = model.training
            model.train(not evaluate)
            with torch.no_grad():
                F.mse_loss(model(HELD_OUT[0]), HELD_OUT[1])
            model.train(mode and back)

    return after


@pytest.mark.parametrize("make", [normed, dropped])
def test_evaluation_mode_after_validation(make: Callable[[], nn.Sequential]) -> None:
    model = make()
    (finding,) = rounds(rule, model, rows(16, 6), steps=40, after=validate(model, 25, evaluate=True, back=False))
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("1",)
    assert "after step 25" in finding.message
    assert not rounds(rule, model, rows(16, 6), steps=30)  # watched anew: nobody knows what it was before
    finding.remedies[0].apply(model)
    assert model.training
    assert model[1].training


def test_evaluation_mode_from_the_start() -> None:
    (finding,) = rounds(rule, normed().eval(), rows(16, 6), steps=6)
    assert "from the first step on" in finding.message


@pytest.mark.parametrize("make", [normed, dropped])
def test_validation_in_training_mode(make: Callable[[], nn.Sequential]) -> None:
    model = make()
    (finding,) = rounds(rule, model, rows(16, 6), steps=45, after=validate(model, 40, evaluate=False))
    assert "1 of 1 validation passes" in finding.message
    (finding,) = rounds(rule, model, rows(16, 6), steps=45, after=validate(model, 10, evaluate=False))
    assert "4 of 4 validation passes" in finding.message
    assert finding.layers == ("1",)


def pretrained() -> nn.Sequential:
    model = normed()
    rounds(rule, model, rows(16, 6), steps=40)
    return model


def test_quiet() -> None:
    model = normed()
    assert not rounds(rule, model, rows(16, 6), steps=45, after=validate(model, 20, evaluate=True))
    assert not rounds(rule, pretrained().eval(), rows(16, 6), steps=30)  # keeps the statistics of a trained model
    model = pretrained()
    model[1].eval()  # a part alone
    assert not rounds(rule, model, rows(16, 6), steps=30)
    assert not rounds(rule, dropped().eval(), rows(16, 6), steps=30)  # fine-tuned without dropout
    model = network()
    assert not rounds(rule, model, rows(16, 6), steps=45, after=validate(model, 10, evaluate=False))  # no mode matters
    model = normed()
    assert not rounds(rule, model, rows(16, 6), steps=45, after=validate(model, 1, evaluate=False))  # a log of the loss
