"""Where a remedy cannot be sure it says why, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import netdoctor
from netdoctor import remedies
from netdoctor.facts import Facts, Layer
from netdoctor.findings import Remedy
from tests.remedies.patients import Patient, patient, same
from tests.remedies.test_undo import LINEARS


def _of_another_model(p: Patient) -> Remedy:
    return remedies.replace_by_leaky_relu(["encoder.act"])


def _weight_norm(p: Patient) -> Remedy:
    nn.utils.parametrizations.weight_norm(p.model.get_submodule("0"))
    return remedies.initialise(p.facts, ("0",))


def _nan(p: Patient) -> Remedy:
    with torch.no_grad():
        next(p.model.parameters()).fill_(float("nan"))
    return remedies.scale_learning_rate(0.1)


def _scheduled(p: Patient) -> Remedy:
    StepLR(p.optimizer, 5)
    return remedies.warm_up(10)


def _no_sequence(p: Patient) -> Remedy:
    return remedies.insert_nonlinearity(["head"])


REFUSED: dict[str, tuple[str, Callable[[Patient], Remedy], str]] = {
    "by hand": ("mlp", lambda p: remedies.find_learning_rate(), "cannot be applied automatically"),
    "functional relu": ("mlp", lambda p: remedies.replace_by_leaky_relu([]), "F.leaky_relu"),
    "another model": ("mlp", _of_another_model, "has no module 'encoder.act'"),
    "weight norm": ("mlp", _weight_norm, "no parameter 'weight' of its own"),
    "lost weights": ("mlp", _nan, "0.weight holds NaN or Inf"),
    "a scheduler": ("mlp", _scheduled, "a scheduler sets"),
    "no sequence": ("tagger", _no_sequence, "does not stand in an nn.Sequential"),
    "no activation": ("mlp", lambda p: remedies.remove_softmax(["5"]), "has parameters"),
    "no dropout": ("mlp", lambda p: remedies.set_dropout(["0"], 0.1), "no dropout layer"),
    "all held": ("mlp", lambda p: remedies.add_missing_parameters(), "holds all of them already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name: str) -> None:
    kind, make, why = REFUSED[name]
    sick = patient(kind, steps=2)
    remedy = make(sick)
    before = sick.state()
    with pytest.raises(netdoctor.RemedyError, match=why):
        remedy.apply(sick.model, sick.optimizer, sick.criterion)
    if name != "lost weights":  # NaN equals nothing
        assert same(before, sick.state())


@pytest.mark.parametrize(
    "remedy",
    [
        remedies.scale_learning_rate(0.1),
        remedies.set_weight_decay(0.1),
        remedies.set_momentum(0.9),
        remedies.clip_gradients(1.0),
        remedies.warm_up(10),
        remedies.reduce_on_plateau(),
        remedies.add_missing_parameters(),
        remedies.take_over(),
    ],
    ids=lambda remedy: remedy.action[:30],
)
def test_what_changes_the_optimizer_asks_for_it(remedy: Remedy) -> None:
    with pytest.raises(ValueError, match=r"pass the optimizer, remedy\.apply\(model, optimizer\)"):
        remedy.apply(patient().model)


@pytest.mark.parametrize(
    "remedy", [remedies.smooth_labels(), remedies.weigh_classes([1, 2, 3])], ids=["smooth", "weigh"]
)
def test_what_changes_the_criterion_asks_for_it(remedy: Remedy) -> None:
    sick = patient()
    with pytest.raises(netdoctor.RemedyError, match=r"apply\(model, optimizer, loss_fn\)"):
        remedy.apply(sick.model, sick.optimizer)
    with pytest.raises(netdoctor.RemedyError, match="not in a function"):
        remedy.apply(sick.model, sick.optimizer, nn.functional.cross_entropy)
    with pytest.raises(netdoctor.RemedyError, match="MSELoss"):
        remedy.apply(sick.model, sick.optimizer, nn.MSELoss())


def test_lbfgs_is_not_clipped() -> None:
    sick = patient()
    with pytest.raises(netdoctor.RemedyError, match="closure"):
        remedies.clip_gradients(1.0).apply(sick.model, torch.optim.LBFGS(sick.model.parameters()))


def test_normalisation_is_not_promised_where_the_place_is_not_certain() -> None:
    layers = (
        Layer("fc", "linear", "Linear", units=4, samples=16, residual=True),
        Layer("rnn", "recurrent", "GRU", units=4, samples=16),
        Layer("never", "linear", "Linear", units=4),
        Layer("good", "linear", "Linear", units=4, samples=16),
    )
    facts = Facts(layers=layers, batch=16)
    assert [remedies.normalise(facts, [layer.name]).applicable for layer in layers] == [False, False, False, True]
    module = nn.ModuleDict({"good": nn.Linear(4, 4)})
    with pytest.raises(netdoctor.RemedyError, match=r"nn\.Sequential"):
        remedies.normalise(facts, ["good"]).apply(module)
    assert type(module["good"]) is nn.Linear


def test_what_a_refusal_says_is_the_code_to_write() -> None:
    sick = patient()
    with pytest.raises(netdoctor.RemedyError) as refusal:
        remedies.find_learning_rate().apply(sick.model, sick.optimizer)
    assert "netdoctor.find_lr(model, loader, loss_fn, optimizer)" in str(refusal.value)
    assert not netdoctor.Remedy("by hand").applicable
    assert remedies.initialise(sick.facts, LINEARS).applicable
