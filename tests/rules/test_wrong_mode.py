"""wrong-mode on real runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class Functional(nn.Module):
    """Drops by functions."""

    def __init__(self, drop: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.drop, self.inside = drop, nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.inside.register_forward_hook(lambda module, args, output: drop(output, module.training))
        self.last = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.inside(x))
        return out


def attend(x: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=dropout)[0]


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("dropout", lambda x, mode: F.dropout(x, 0.3)),
        ("alpha_dropout", lambda x, mode: F.alpha_dropout(x, 0.3, True)),
        ("scaled_dot_product_attention", lambda x, mode: attend(x, 0.3)),
    ],
)
def test_functions_that_drop_in_evaluation(name: str, drop: Callable[[Tensor, bool], Tensor]) -> None:
    after = validate(model := Functional(drop), 10, evaluate=True)
    (finding,) = rounds(rule, model, rows(16, 6), steps=45, after=after)
    assert f"F.{name} drops 30%" in finding.message
    assert "though inside is in evaluation mode" in finding.message


@pytest.mark.parametrize(
    "drop",
    [
        lambda x, mode: F.dropout(x, 0.3, mode),
        lambda x, mode: F.alpha_dropout(x, 0.3),
        lambda x, mode: attend(x, 0.3 if mode else 0.0),
        lambda x, mode: F.dropout(x, 0.001),
    ],
)
def test_functions_that_are_told(drop: Callable[[Tensor, bool], Tensor]) -> None:
    after = validate(model := Functional(drop), 10, evaluate=True)
    assert not rounds(rule, model, rows(16, 6), steps=45, after=after)


def test_other_models_that_drop() -> None:
    other, model = Functional(lambda x, mode: F.dropout(x, 0.3)), network()

    def after(step: int) -> None:
        if step % 10 == 0:
            model.eval()
            with torch.no_grad():
                other(HELD_OUT[0])
                F.mse_loss(model(HELD_OUT[0]), HELD_OUT[1])
            model.train()

    assert not rounds(rule, model, rows(16, 6), steps=45, after=after)


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
