"""Trials: the remedy that cures comes first, the original stays as it is, and findings expect what was measured."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import netdoctor
from netdoctor import Remedy, remedies
from netdoctor.trial_results import Arm, Trial, better, ranked
from netdoctor.trials import worth_trying
from tests.clinic import data, models
from tests.remedies.patients import Patient, patient, same


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def digits() -> DataLoader[tuple[Tensor, ...]]:
    task = data.digits()
    return DataLoader(TensorDataset(task.x, task.y), 32, shuffle=True, drop_last=True)


def deep(std: float = 0.01) -> nn.Module:
    return models.initialise(models.mlp(64, *[32] * 8, 10), lambda w: nn.init.normal_(w, 0, std))


def try_on(sick: Patient, given: list[Remedy], **options: Any) -> Trial:
    loader = [(sick.x, sick.y)]
    return netdoctor.trial(
        sick.model, loader, sick.criterion, sick.optimizer, given, steps=3, repeats=2, progress=False, **options
    )


def test_the_remedy_that_cures_is_the_one_to_take() -> None:
    model = deep()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    result = netdoctor.trial(model, digits(), nn.CrossEntropyLoss(), optimizer, steps=60, repeats=2, progress=False)
    assert result.best is not None
    assert result.best.action.startswith("Initialise with Kaiming")
    assert "in a trial of 60 steps the loss came to" in result.best.effect
    assert result.untouched.findings == ("poor-initialization",)
    assert result.arms[0].findings == ()
    low, high = result.arms[0].interval
    assert low < result.arms[0].loss < high < 1 < result.untouched.loss
    assert result.arms[0].update_ratio > 0
    assert len(result.arms[0].curve) == 60
    assert "Take: Initialise with Kaiming" in str(result)
    result.best.apply(model, optimizer)  # it is still one that can be applied


def test_where_nothing_is_wrong_nothing_is_tried() -> None:
    model = models.mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    result = netdoctor.trial(model, digits(), nn.CrossEntropyLoss(), optimizer, steps=40, repeats=1, progress=False)
    assert [arm.name for arm in result.arms] == ["untouched"]
    assert result.best is None
    assert "No remedy does better than none" in str(result)


@pytest.mark.parametrize("steps", [0, 4], ids=["new", "half-trained"])
def test_the_original_stays_bit_for_bit(steps: int) -> None:
    sick = patient(steps=steps)
    loader = DataLoader(TensorDataset(sick.x, sick.y), 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    before, numbers, order = sick.state(), torch.get_rng_state(), loader.generator.get_state()
    given = [remedies.initialise(sick.facts, ("0", "2")), remedies.clip_gradients(0.1), remedies.smooth_labels()]
    netdoctor.trial(sick.model, loader, sick.criterion, sick.optimizer, given, steps=3, repeats=2, progress=False)
    assert same(before, sick.state())
    assert torch.equal(numbers, torch.get_rng_state())
    assert torch.equal(order, loader.generator.get_state())


def test_all_arms_see_the_same_batches_with_the_same_random_numbers() -> None:
    sick = patient()
    noop = Remedy("nothing", treatment=lambda model, optimizer: None)
    result = try_on(sick, [noop])
    assert result.arms[0].losses == result.arms[1].losses
    assert result.arms[0].losses[0] != result.arms[0].losses[1], "repeats differ: the model has dropout"
    assert result.best is None


def test_the_loss_that_counts_is_that_before_any_remedy() -> None:
    sick = patient(steps=0)
    result = try_on(
        sick, [Remedy("both", treatment=remedies.in_turn(remedies.smooth_labels(0.9), remedies.set_learning_rate(0.0)))]
    )
    smoothed = next(arm for arm in result.arms if arm.remedy is not None)
    sick.model.eval()
    with torch.no_grad():
        plain = float(nn.functional.cross_entropy(sick.model(sick.x), sick.y))
    assert smoothed.loss == pytest.approx(plain)


def test_a_remedy_that_refuses_and_one_that_loses_it_come_last() -> None:
    sick = patient()
    lost = remedies.scale_learning_rate(1e30)
    result = try_on(sick, [remedies.insert_nonlinearity(["nowhere"]), lost, remedies.clip_gradients(1.0)])
    assert [arm.name for arm in result.arms[-2:]] == [lost.action, "Put a ReLU behind nowhere"]
    assert result.arms[-1].refused
    assert math.isinf(result.arms[-2].loss)
    assert result.remedies[-1].action == lost.action
    json.dumps(result.to_dict(), allow_nan=False)
    assert "refused" in str(result)


def test_time_that_is_up_leaves_repeats_out_and_says_so() -> None:
    result = try_on(patient(), [remedies.clip_gradients(1.0)], seconds=0.0)
    assert {len(arm.losses) for arm in result.arms} == {1}
    assert result.note == "Time was up after 1 of 2 repeats."


def test_the_loss_on_validation_data_counts_where_it_is_given() -> None:
    sick = patient()
    half = [(sick.x[:8], sick.y[:8])]
    losses = [try_on(sick, [], validation=half).untouched.loss, try_on(sick, []).untouched.loss]
    assert losses[0] != losses[1]


def test_findings_of_the_monitor_are_tried_and_expect_what_was_measured() -> None:
    model, loader = deep(), digits()
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), 3e-3), nn.CrossEntropyLoss()
    with netdoctor.watch(model, reporters=[]) as monitor:
        for _, (x, y) in zip(range(5), loader, strict=False):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        seen = monitor.history.table("loss").values.tolist()
        result = netdoctor.trial(model, loader, loss_fn, optimizer, steps=30, repeats=1, progress=False)
        for finding in (monitor.findings[0], monitor.diagnose().findings[0]):
            assert finding.remedies[0].effect.startswith("in a trial of 30 steps")
            assert finding.remedies[0].applicable
        assert {remedy.action for remedy in result.remedies} == {
            remedy.action for remedy in monitor.findings[0].remedies if remedy.applicable
        }
        assert monitor.step == 5
        assert monitor.history.table("loss").values.tolist() == seen


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        netdoctor.trial(nn.Linear(2, 1), [], None, torch.optim.SGD([torch.zeros(1)], 0.1), steps=0)


class TestRanking:
    """By arithmetic alone."""

    @staticmethod
    def arm(*losses: float, action: str = "") -> Arm:
        return Arm(Remedy(action) if action else None, losses)

    def test_a_remedy_is_better_where_the_repeats_differ_less_than_the_losses(self) -> None:
        nothing = self.arm(1.0, 1.1, 0.9)
        assert better(self.arm(0.5, 0.6, 0.4, action="a"), nothing)
        assert not better(self.arm(0.95, 0.9, 1.0, action="a"), nothing)
        assert not better(self.arm(0.99, action="a"), self.arm(1.0))
        assert better(self.arm(5.0, action="a"), self.arm(math.inf))
        assert not better(self.arm(math.inf, action="a"), self.arm(math.inf))

    def test_the_lowest_loss_comes_first_and_what_was_refused_last(self) -> None:
        arms = (
            self.arm(2.0),
            self.arm(1.0, action="b"),
            Arm(Remedy("c"), refused="no"),
            self.arm(math.inf, action="d"),
        )
        assert [arm.name for arm in ranked(arms)] == ["b", "untouched", "d", "c"]

    def test_remedies_worth_trying_are_applicable_and_named_once(self) -> None:
        one, two = remedies.clip_gradients(1.0), remedies.scale_learning_rate(0.1)
        findings = [
            netdoctor.Finding("a", netdoctor.Severity.WARNING, 1, "", remedies=(one, remedies.find_learning_rate())),
            netdoctor.Finding("b", netdoctor.Severity.ERROR, 1, "", remedies=(Remedy("by hand"), two, one)),
        ]
        assert [remedy.action for remedy in worth_trying(findings)[:2]] == [two.action, one.action]


def test_the_picture_and_the_table() -> None:
    plots = pytest.importorskip("matplotlib.pyplot")
    plots.switch_backend("Agg")
    arms = (
        Arm(Remedy("Clip"), (0.5,), (2.0, 1.0, 0.5), 0.01),
        Arm(None, (2.0,), (2.0, 2.0, 2.0), findings=("dead-units",)),
    )
    result = Trial(arms, 3)
    axes = result.plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Clip: 0.5", "untouched: 2"]
    plots.close("all")
    table = result.table()
    assert [next(iter(column.cells)) for column in table.columns] == ["Clip", "0.5", "0.01", "nothing"]


def test_a_loss_without_a_lower_bound_is_no_measure() -> None:
    untouched = Arm(None, (-400.0,))
    slower = Arm(Remedy("slower"), (-900.0,))
    ends = Arm(Remedy("bound", unbounded=True), (-0.5,))
    vain = Arm(Remedy("vain", unbounded=True), (-950.0,), findings=("weight-growth",))
    assert better(ends, untouched)
    assert not better(vain, untouched)
    assert ranked((untouched, slower, vain, ends))[0] is ends
    assert Remedy.from_dict(Remedy("bound", unbounded=True).to_dict()).unbounded


def test_of_losses_that_hardly_differ_the_one_with_fewer_findings_is_better() -> None:
    ill, cured = ("expert-imbalance",), ()
    untouched = Arm(None, (1.0,), findings=ill)
    for loss, findings, expected in (
        (0.99, cured, True),
        (1.01, cured, True),
        (0.99, ill, False),
        (0.5, (*ill, "loss-spike"), True),
        (1.5, cured, False),
    ):
        arm = Arm(Remedy("a"), (loss,), findings=findings)
        assert better(arm, untouched) is expected
        assert (ranked((untouched, arm))[0] is arm) is (expected or loss < 1)
    lost = Arm(Remedy("b"), (float("inf"),))
    refused = Arm(Remedy("c"), refused="no")
    assert ranked((refused, lost, untouched)) == (untouched, lost, refused)


def test_what_ends_a_finding_while_its_loss_falls_is_better_than_what_is_ahead_for_now() -> None:
    untouched = Arm(None, (0.3,), (2.3, 0.9, 0.3), findings=("stale-gradient",))
    cleared = Arm(Remedy("clear"), (0.4,), (2.3, 1.2, 0.4))
    assert better(cleared, untouched)
    assert not better(Arm(Remedy("hold"), (2.3,), (2.3, 2.3, 2.3)), untouched)
    assert not better(Arm(Remedy("swap"), (0.4,), (2.3, 1.2, 0.4), findings=("loss-spike",)), untouched)
    assert not better(cleared, Arm(None, (0.3,), (2.3, 0.9, 0.3)))
