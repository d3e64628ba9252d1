"""The learning-rate finder: the original stays as it is, the suggestion trains, and it says when there is none."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import netdoctor
from netdoctor import lr_criteria
from netdoctor.batches import endless, loss_of
from netdoctor.lr_curve import LRCurve
from tests.clinic import data, models
from tests.remedies.patients import patient, same


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def digits(batch: int = 32) -> DataLoader[tuple[Tensor, ...]]:
    task = data.digits()
    return DataLoader(TensorDataset(task.x, task.y), batch, shuffle=True, drop_last=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any, steps: int) -> float:
    for _, (x, y) in zip(range(steps), endless(loader), strict=False):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_the_suggestion_trains_and_ten_times_less_or_more_does_worse() -> None:
    loader = digits()
    model = models.mlp(64, 64, 64, 10)
    curve = netdoctor.find_lr(
        model, loader, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 1e-3), progress=False
    )
    assert curve.suggestion is not None
    losses = []
    for factor in (0.1, 1.0, 10.0):
        tried = copy.deepcopy(model)
        losses.append(train(tried, torch.optim.SGD(tried.parameters(), factor * curve.suggestion), loader, 150))
    assert losses[1] < 0.3
    assert losses[1] < min(losses[0], losses[2])
    assert {name for name, _ in curve.candidates} <= {"steepest", "valley", "quadratic"}
    assert f"{curve.suggestion:.2g}" in str(curve)


@pytest.mark.parametrize("steps", [0, 5], ids=["new", "half-trained"])
def test_the_original_stays_bit_for_bit(steps: int) -> None:
    sick = patient(steps=steps)
    sick.model.get_submodule("4").eval()
    loader = DataLoader(TensorDataset(sick.x, sick.y), 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    before, numbers, order = sick.state(), torch.get_rng_state(), loader.generator.get_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in sick.model.parameters()]
    netdoctor.find_lr(sick.model, loader, sick.criterion, sick.optimizer, steps=20, tries=5, progress=False)
    assert same(before, sick.state())
    assert torch.equal(numbers, torch.get_rng_state())
    assert torch.equal(order, loader.generator.get_state())
    assert same(gradients, [p.grad for p in sick.model.parameters()])


def test_param_groups_keep_their_ratio() -> None:
    sick = patient()
    layers = list(sick.model.parameters())
    optimizer = torch.optim.SGD([{"params": layers[:2], "lr": 0.1}, {"params": layers[2:], "lr": 0.01}])
    rates: list[list[float]] = []
    original = torch.optim.SGD.step

    def step(self: Any, *args: Any) -> Any:
        rates.append([group["lr"] for group in self.param_groups])
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        netdoctor.find_lr(sick.model, [(sick.x, sick.y)], sick.criterion, optimizer, steps=10, tries=0, progress=False)
    assert all(second == pytest.approx(first / 10) for first, second in rates)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]


class TestNoSuggestion:
    def test_where_no_rate_makes_it_learn(self) -> None:
        x, model = torch.randn(640, 8), nn.Linear(8, 1)
        loader = DataLoader(TensorDataset(x, 10 * torch.randn(640, 1)), 16)
        curve = netdoctor.find_lr(model, loader, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), progress=False)
        assert curve.suggestion is None
        assert "no rate made it learn" in str(curve)

    def test_where_the_loss_is_not_finite(self) -> None:
        model = nn.Linear(4, 1)
        batch = [(torch.full((8, 4), float("nan")), torch.zeros(8, 1))]
        curve = netdoctor.find_lr(model, batch, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), progress=False)
        assert curve.suggestion is None
        assert "not finite" in curve.reason
        assert json.loads(json.dumps(curve.to_dict(), allow_nan=False))["losses"] == [None]


class TestForms:
    """Of batches, models and loss functions."""

    def test_models_that_return_their_loss(self) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = models.mlp(64, 32, 10)

            def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
                logits = self.body(inputs)
                return {"loss": F.cross_entropy(logits, labels), "logits": logits}

        model = Model()
        loader = [{"inputs": x, "labels": y} for x, y in digits()]
        curve = netdoctor.find_lr(model, loader, None, torch.optim.Adam(model.parameters()), progress=False)
        assert curve.suggestion is not None
        assert 1e-3 < curve.suggestion < 0.1

    def test_a_loss_written_by_hand_and_an_iterator(self) -> None:
        model = models.VAE()

        def loss_fn(model: Any, batch: Any) -> Tensor:
            out, mean, log_variance = model(batch[0])
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            loss: Tensor = F.mse_loss(out, batch[0]) + 0.1 * kl
            return loss

        curve = netdoctor.find_lr(model, iter(digits()), loss_fn, torch.optim.Adam(model.parameters()), progress=False)
        assert curve.suggestion is not None

    @pytest.mark.parametrize(
        "batch",
        [
            (torch.ones(2, 3), torch.zeros(2, 1)),
            {"x": torch.ones(2, 3), "target": torch.zeros(2, 1)},
            ((torch.ones(2, 3),), torch.zeros(2, 1)),
            ({"input": torch.ones(2, 3)}, torch.zeros(2, 1)),
        ],
    )
    def test_inputs_and_target(self, batch: Any) -> None:
        model = nn.Linear(3, 1)
        assert torch.equal(loss_of(model, batch, F.mse_loss), model(torch.ones(2, 3)).square().mean())

    @pytest.mark.parametrize(
        ("batch", "loss_fn", "why"),
        [
            (torch.ones(2, 3), F.mse_loss, r"loss_fn\(model, batch\)"),
            ({"x": torch.ones(2, 3)}, F.mse_loss, "target under one of labels"),
            ((torch.ones(2, 3), torch.zeros(2, 1)), nn.MSELoss(reduction="none"), "a tensor with one element"),
            (torch.ones(2, 3), None, "called without a loss function"),
        ],
    )
    def test_what_has_no_form_is_told(self, batch: Any, loss_fn: Any, why: str) -> None:
        with pytest.raises(TypeError, match=why):
            loss_of(nn.Linear(3, 1), batch, loss_fn)

    def test_wrong_arguments(self) -> None:
        model = nn.Linear(2, 1)
        with pytest.raises(ValueError, match="rises"):
            netdoctor.find_lr(model, [], None, torch.optim.SGD(model.parameters(), 0.1), start=1.0, end=0.1)
        with pytest.raises(ValueError, match="LBFGS"):
            netdoctor.find_lr(model, [], None, torch.optim.LBFGS(model.parameters()))
        with pytest.raises(ValueError, match="no batch"):
            netdoctor.find_lr(model, [], nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), progress=False)

    def test_left_overs_of_a_forward_pass_can_be_copied(self) -> None:
        model = models.MixtureOfExperts(4, 8, 2)
        model(torch.randn(6, 4))  # leaves a tensor with a graph in an attribute
        loader = [(torch.randn(6, 4), torch.randn(6, 2))]
        netdoctor.find_lr(
            model, loader, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), steps=10, tries=0, progress=False
        )


class TestCriteria:
    RATES = np.geomspace(1e-5, 10, 60)

    def test_the_steepest_point_of_a_sigmoid_is_its_middle(self) -> None:
        falling = 1 / (1 + np.exp(3 * (np.log(self.RATES) - math.log(1e-2))))
        assert self.RATES[lr_criteria.steepest(self.RATES, falling)] == pytest.approx(1e-2, rel=0.2)

    def test_the_valley_is_the_middle_of_the_longest_fall(self) -> None:
        losses = np.concatenate((np.full(20, 2.0), np.linspace(2, 1, 21)[1:], np.linspace(1, 9, 20)))
        assert lr_criteria.valley(losses) == pytest.approx(29, abs=1)

    def test_smoothing_leaves_out_what_is_not_finite(self) -> None:
        values = np.array([1.0, np.nan, 1.0, np.inf, 1.0])
        assert lr_criteria.smooth(values) == pytest.approx(np.ones(5))

    def test_the_share_of_noise_that_smoothing_leaves(self) -> None:
        noise = np.random.default_rng(0).normal(size=4000)
        assert lr_criteria.smooth(noise)[20:-20].std() == pytest.approx(lr_criteria.LEFT, rel=0.05)

    def test_successive_gradients_of_a_quadratic_are_orthogonal_at_one_over_the_curvature(self) -> None:
        gradient, curvature, cosines = 1.0, 4.0, [math.nan]
        for rate in self.RATES[:-1]:
            after = gradient * (1 - rate * curvature)
            cosines.append(math.copysign(1.0, after * gradient))
            gradient = after
        found = lr_criteria.quadratic(np.array(cosines))
        assert found is not None
        assert self.RATES[found] == pytest.approx(1 / curvature, rel=0.4)  # the grid's spacing is 1.26
        assert lr_criteria.quadratic(np.ones(60)) is None


def test_the_plot_shows_curve_and_suggestion() -> None:
    plots = pytest.importorskip("matplotlib.pyplot")
    plots.switch_backend("Agg")
    curve = LRCurve(
        (1e-3, 1e-2, 1e-1), (2.0, 1.0, 3.0), (2.0, 1.2, 2.5), (math.nan, 0.5, -0.5), 1e-2, "", (("valley", 5e-3),)
    )
    axes = curve.plot()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["loss", "smoothed", "valley: 0.005", "suggestion: 0.01"]
    assert axes.get_xscale() == "log"
    plots.close("all")


def test_without_matplotlib_the_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"netdoctor-torch\[plot\]"):
        LRCurve((1.0,), (1.0,), (1.0,), (1.0,), None, "").plot()
