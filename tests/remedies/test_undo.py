"""Every treatment says what it changed, and its undo() restores model, optimizer and criterion bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from netdoctor import remedies
from netdoctor.findings import Remedy
from tests.remedies.patients import Patient, patient, same

Make = Callable[[Patient], Remedy]
LINEARS = ("0", "2", "5")
CONVOLUTIONS = ("0.0", "0.2", "2")

EACH: dict[str, tuple[str, Make]] = {
    "initialise linear": ("mlp", lambda p: remedies.initialise(p.facts, LINEARS)),
    "initialise conv": ("cnn", lambda p: remedies.initialise(p.facts, CONVOLUTIONS)),
    "initialise recurrent": ("tagger", lambda p: remedies.initialise(p.facts, ("recurrent", "attention", "head"))),
    "orthogonal": ("cnn", lambda p: remedies.orthogonal(p.facts, CONVOLUTIONS)),
    "transformer": ("tagger", lambda p: remedies.initialise_transformer(p.facts)),
    "rescale by data": ("mlp", lambda p: remedies.rescale_by_data(LINEARS)),
    "normalise linear": ("mlp", lambda p: remedies.normalise(p.facts, LINEARS[:2])),
    "normalise conv": ("cnn", lambda p: remedies.normalise(p.facts, CONVOLUTIONS[:2])),
    "leaky": ("mlp", lambda p: remedies.replace_by_leaky_relu(["3"])),
    "rectify": ("mlp", lambda p: remedies.rectify(["1"], ["0", "2"])),
    "nonlinearity": ("cnn", lambda p: remedies.insert_nonlinearity(["0.2"])),
    "remove softmax": ("mlp", lambda p: remedies.remove_softmax(["6"])),
    "another output": ("mlp", lambda p: remedies.replace_output(["6"], "Sigmoid", "")),
    "clip": ("mlp", lambda p: remedies.clip_gradients(0.01)),
    "lower rate": ("mlp", lambda p: remedies.scale_learning_rate(0.1, 0.01)),
    "set rate": ("mlp", lambda p: remedies.set_learning_rate(0.5)),
    "weight decay": ("mlp", lambda p: remedies.set_weight_decay(0.1)),
    "momentum": ("mlp", lambda p: remedies.set_momentum(0.5)),
    "warm up": ("mlp", lambda p: remedies.warm_up(10)),
    "cosine": ("mlp", lambda p: remedies.warm_up_and_decay(2, 20)),
    "decay instead": ("mlp", lambda p: remedies.decay_instead([0.5], 20)),
    "plateau": ("mlp", lambda p: remedies.reduce_on_plateau(0.1, 1)),
    "smooth labels": ("mlp", lambda p: remedies.smooth_labels()),
    "class weights": ("mlp", lambda p: remedies.weigh_classes([10, 20, 70])),
    "insert dropout": ("mlp", lambda p: remedies.insert_dropout(["1"])),
    "more dropout": ("mlp", lambda p: remedies.more_dropout(p.facts)[0]),
    "less dropout": ("mlp", lambda p: remedies.set_dropout(["4"], 0.0)),
    "standardise": ("mlp", lambda p: remedies.standardise(p.facts.layer("0"), 1.0, 2.0)),
    "standardise features": ("cnn", lambda p: remedies.standardise_features(p.facts.layer("0.0"))),
    "standardise robustly": ("mlp", lambda p: remedies.standardise_robustly(p.facts.layer("0"))),
    "divide scores": ("mlp", lambda p: remedies.divide_scores({"2": 3.0, "6": 5.0}, 1.5, 0.3)),
    "start again": ("mlp", lambda p: remedies.start_again(p.facts, LINEARS, 0.1)),
    "in turn": ("mlp", lambda p: _both(remedies.clip_gradients(0.1), remedies.replace_by_leaky_relu(["3"]))),
    "missing parameters": ("mlp", lambda p: _without(p, remedies.add_missing_parameters())),
    "another's optimizer": ("mlp", lambda p: _of_another(p, remedies.take_over())),
    "unfreeze": ("mlp", lambda p: _frozen(p, Remedy("unfreeze", treatment=remedies.unfreeze(["0"])))),
    "rate of parameters": ("mlp", lambda p: Remedy("rate", treatment=remedies.set_rate_of(["0.weight"], 0.5))),
    "slow groups": ("mlp", lambda p: remedies.slow_groups({0: 0.1})),
    "leave out": ("mlp", lambda p: remedies.leave_out("6", "softmax", "", "", "")),
    "sigmoid": ("mlp", lambda p: Remedy("sigmoid", treatment=remedies.use_sigmoid("6"))),
    "standardise targets": ("mlp", lambda p: remedies.standardise_targets(p.facts.layer("5"), 1.0, 2.0, 1.0)),
    "orthogonal recurrence": ("tagger", lambda p: remedies.orthogonal_recurrence(p.facts.layer("recurrent"))),
    "remember": ("tagger", lambda p: remedies.remember(p.facts.layer("recurrent"), 20)),
    "gated": ("reader", lambda p: remedies.gated(p.facts.layer("recurrent"), 20)),
    "xavier attention": ("tagger", lambda p: remedies.xavier_attention(("attention",))),
    "scale weights": ("tagger", lambda p: remedies.scale_weights({"attention": 0.5, "head": 0.1}, "", "", "")),
    "bound weights": ("mlp", lambda p: Remedy("bound", treatment=remedies.bound_weights({"0.weight": 0.1}))),
    "quiet head": ("mlp", lambda p: Remedy("quiet", treatment=remedies.quiet_head("5", 0.01))),
    "balance experts": ("mlp", lambda p: remedies.balance_experts(p.facts.layer("5"), 3)),
    "biases before norms": ("normed", lambda p: Remedy("biases", treatment=remedies.remove_biases([("0", "1")]))),
    "gather faster": ("normed", lambda p: Remedy("faster", treatment=remedies.gather_faster(0.2))),
    "group norm": ("normed", lambda p: Remedy("norms", treatment=remedies.replace_batch_norms({"1": False}))),
    "bfloat16": ("mlp", lambda p: remedies.autocast_to_bfloat16(p.facts)),
    "float32": ("half", lambda p: remedies.weights_in_float32("bfloat16")),
    "stop": ("normed", lambda p: Remedy("stop", treatment=remedies.stop_at(2))),
    "a plain function": ("mlp", lambda p: Remedy("by hand", treatment=_by_hand)),
}  # fmt: skip


def _both(*each: Remedy) -> Remedy:
    return Remedy("both", treatment=remedies.in_turn(*each))


def _without(p: Patient, remedy: Remedy) -> Remedy:
    group = p.optimizer.param_groups[0]
    for parameter in group["params"][2:]:
        p.optimizer.state.pop(parameter, None)
    group["params"] = group["params"][:2]
    return remedy


def _of_another(p: Patient, remedy: Remedy) -> Remedy:
    p.optimizer = patient(steps=2).optimizer
    return remedy


def _frozen(p: Patient, remedy: Remedy) -> Remedy:
    p.model.get_submodule("0").requires_grad_(False)
    return remedy


def _by_hand(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """What a rule's own treatment may do: nothing here keeps a way back."""
    first, second = (model.get_submodule(name) for name in ("0", "2"))
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    nn.init.zeros_(first.weight)
    first.bias = None  # type: ignore[assignment]
    model.set_submodule("1", nn.ELU())
    model.get_submodule("4").p = 0.7  # type: ignore[assignment]
    model.get_submodule("2").requires_grad_(False)
    model.register_forward_pre_hook(lambda module, args: None)
    optimizer.param_groups[0]["lr"] = 7.0
    optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    optimizer.state.pop(second.weight, None)
    optimizer.register_step_pre_hook(lambda *args: None)


@pytest.mark.parametrize("steps", [0, 5], ids=["new", "half-trained"])
@pytest.mark.parametrize("name", EACH)
def test_undo_restores_every_bit(name: str, steps: int) -> None:
    kind, make = EACH[name]
    sick = patient(kind, steps)
    remedy = make(sick)
    before = sick.state()
    assert remedy.applicable
    treatment = remedy.apply(sick.model, sick.optimizer, sick.criterion)
    assert treatment.changes, "it says nothing of what it changed"
    assert treatment.action == remedy.action
    assert not same(before, sick.state())
    treatment.undo()
    assert same(before, sick.state())
    treatment.undo()  # a second time does nothing
    assert same(before, sick.state())


@pytest.mark.parametrize("steps", [0, 5], ids=["new", "half-trained"])
@pytest.mark.parametrize("name", EACH)
def test_training_goes_on_with_it_and_after_undo(name: str, steps: int) -> None:
    kind, make = EACH[name]
    sick = patient(kind, steps)
    remedy = make(sick)
    before = sick.state()
    treatment = remedy.apply(sick.model, sick.optimizer, sick.criterion)
    sick.train(3)
    assert sick.loss() < float("inf")
    treatment.undo()
    after = sick.state()
    for part in ("identities", "modules", "trainable", "rates", "hooks", "groups", "step hooks", "class weights"):
        assert same(before[part], after[part]), part
    sick.train(3)
    assert sick.loss() < float("inf")


def test_weights_that_were_replaced_come_back_after_training() -> None:
    sick = patient(steps=5)
    before = sick.state()
    treatment = remedies.initialise(sick.facts, LINEARS).apply(sick.model, sick.optimizer)
    sick.train(3)
    treatment.undo()
    assert same(before["tensors"], sick.state()["tensors"])
    assert same(before["moments"], sick.state()["moments"])


def test_sgd_momentum_comes_back_too() -> None:
    sick = patient(steps=5, adam=False)
    before = sick.state()
    remedies.initialise(sick.facts, LINEARS).apply(sick.model, sick.optimizer).undo()
    assert same(before, sick.state())


@pytest.mark.parametrize("name", ["initialise linear", "a plain function"])
def test_a_treatment_that_fails_half_way_leaves_nothing(name: str) -> None:
    sick = patient(steps=3)
    before = sick.state()

    def fail(model: nn.Module, optimizer: object) -> None:
        _by_hand(model, optimizer)  # type: ignore[arg-type]
        raise RuntimeError("no further")

    broken = Remedy("fails", treatment=fail)
    both = Remedy("both", treatment=remedies.in_turn(EACH[name][1](sick), broken))
    with pytest.raises(RuntimeError, match="no further"):
        both.apply(sick.model, sick.optimizer)
    assert same(before, sick.state())
