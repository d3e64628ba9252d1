"""The examination before training finds the faults of the start, and leaves no trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor import Severity
from netdoctor.findings import Diagnosis
from tests.clinic import data, models
from tests.remedies.patients import patient, same


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def batch(*shape: int, raw: bool = False) -> tuple[Tensor, Tensor]:
    task = data.digits(*shape, raw=raw)
    return task.x[:32], task.y[:32]


def _numpy_numbers() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    numbers: list[int] = state[1].tolist()
    return numbers


def slugs(diagnosis: Diagnosis, least: Severity = Severity.WARNING) -> list[str]:
    assert not [skipped for skipped in diagnosis.skipped if "failed" in skipped.reason], diagnosis.skipped
    return [finding.rule for finding in diagnosis.findings if finding.severity >= least]


class TestNoTrace:
    @pytest.mark.parametrize("steps", [0, 4], ids=["new", "half-trained"])
    @pytest.mark.parametrize("with_optimizer", [True, False], ids=["optimizer", "no optimizer"])
    @pytest.mark.parametrize("kind", ["mlp", "cnn", "tagger"])
    def test_everything_is_bit_identical_and_so_is_the_next_step(
        self, kind: str, with_optimizer: bool, steps: int
    ) -> None:
        sick, twin = patient(kind, steps), patient(kind, steps)
        before = sick.state()
        gradients = [None if p.grad is None else p.grad.clone() for p in sick.model.parameters()]
        numbers = torch.get_rng_state(), random.getstate(), _numpy_numbers()
        netdoctor.checkup(sick.model, (sick.x, sick.y), sick.criterion, sick.optimizer if with_optimizer else None)
        assert same(before, sick.state())
        assert same(gradients, [p.grad for p in sick.model.parameters()])
        assert torch.equal(torch.get_rng_state(), numbers[0])
        assert (random.getstate(), _numpy_numbers()) == numbers[1:]
        for each in (sick, twin):
            torch.manual_seed(1)
            each.train(2)
        assert same(sick.state()["tensors"], twin.state()["tensors"])

    def test_running_statistics_and_a_mode_in_parts_stay(self) -> None:
        model = models.cnn()
        model[1].eval()
        before = copy.deepcopy(model.state_dict())
        netdoctor.checkup(model, batch(1, 8, 8), F.cross_entropy)
        assert same(dict(before), dict(model.state_dict()))
        assert [module.training for module in model] == [i != 1 for i in range(len(model))]

    def test_a_monitor_that_watches_hears_nothing_of_it(self) -> None:
        histories = []
        for examined in (False, True):
            sick = patient()
            with netdoctor.watch(sick.model, reporters=[], every=1) as monitor:
                for _ in range(3):
                    sick.train(1)
                    if examined:
                        netdoctor.checkup(sick.model, (sick.x, sick.y), sick.criterion, sick.optimizer)
                histories.append(monitor.history)
                assert monitor.step == 3
        first, second = (
            {name: h.table(name).values for name in ("loss", "gradient_rms", "weight_rms")} for h in histories
        )
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
        assert histories[0].facts == histories[1].facts

    def test_a_loss_function_that_holds_the_model_leaves_it_no_gradients(self) -> None:
        model = models.mlp(64, 16, 10)

        def loss_fn(output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output, target) + 1e-3 * sum(p.square().sum() for p in model.parameters())

        netdoctor.checkup(model, batch(), loss_fn)
        assert all(p.grad is None for p in model.parameters())


class TestFaults:
    """Each with one batch; the healthy program beside it."""

    def test_healthy_programs(self) -> None:
        for model, given in (
            (models.mlp(64, 64, 10), batch()),
            (models.cnn(), batch(1, 8, 8)),
            (models.resnet(), batch(1, 8, 8)),
        ):
            optimizer = torch.optim.Adam(model.parameters())
            diagnosis = netdoctor.checkup(model, given, F.cross_entropy, optimizer)
            assert slugs(diagnosis) == []
            assert diagnosis.healthy
            assert diagnosis.skipped

    @pytest.mark.parametrize("std", [0.01, 1.0], ids=["too small", "too large"])
    def test_weights_of_the_wrong_scale(self, std: float) -> None:
        model = models.mlp(64, *[64] * 7, 10)
        models.initialise(model, lambda w: nn.init.normal_(w, 0, std))
        diagnosis = netdoctor.checkup(model, batch(), F.cross_entropy)
        assert "poor-initialization" in slugs(diagnosis)
        finding = next(each for each in diagnosis.findings if each.rule == "poor-initialization")
        finding.remedies[0].apply(model)
        assert slugs(netdoctor.checkup(model, batch(), F.cross_entropy)) == []

    def test_input_of_the_wrong_scale(self) -> None:
        x, y = batch(raw=True)
        model = models.mlp(64, 64, 10)
        assert slugs(netdoctor.checkup(model, (x * 16, y), nn.CrossEntropyLoss())) == ["unnormalized-input"]

    def test_parameters_that_the_optimizer_lacks(self) -> None:
        model = models.mlp(64, 64, 10)
        diagnosis = netdoctor.checkup(model, batch(), F.cross_entropy, torch.optim.SGD(model[2].parameters(), 0.1))
        assert slugs(diagnosis, Severity.NOTE) == ["weights-not-updated"]
        assert diagnosis.findings[0].layers == ("0",)

    def test_an_optimizer_of_another_model(self) -> None:
        model = models.mlp(64, 64, 10)
        optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), 0.1)
        (finding,) = netdoctor.checkup(model, batch(), F.cross_entropy, optimizer).findings
        assert finding.rule == "weights-not-updated"
        assert "none of them holds any of its parameters" in finding.message
        finding.remedies[0].apply(model, optimizer)
        assert netdoctor.checkup(model, batch(), F.cross_entropy, optimizer).healthy

    def test_what_another_optimizer_of_the_program_holds_is_not_missed(self) -> None:
        model = models.mlp(64, 64, 10)
        first, second = torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.Adam(model[2].parameters())
        assert netdoctor.checkup(model, batch(), F.cross_entropy, first).healthy
        del second
        assert not netdoctor.checkup(model, batch(), F.cross_entropy, first).healthy

    def test_a_loss_summed_over_the_batch(self) -> None:
        x = torch.randn(64, 10)
        model, target = models.mlp(10, 32, 1), x[:, :1] + 1
        optimizer, criterion = torch.optim.SGD(model.parameters(), 0.03), nn.MSELoss(reduction="sum")
        (finding,) = netdoctor.checkup(model, (x, target), criterion, optimizer).findings
        assert finding.rule == "summed-loss"
        finding.remedies[0].apply(model, optimizer, criterion)
        assert netdoctor.checkup(model, (x, target), criterion, optimizer).healthy

    def test_samples_that_mix(self) -> None:
        class Mixing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = models.mlp(64, 32, 10)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.body(x.view(64, -1).T)
                return out

        diagnosis = netdoctor.checkup(Mixing(), (torch.randn(32, 64), batch()[1]), F.cross_entropy)
        assert "mixed-samples" in slugs(diagnosis)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: models.cnn(),  # BatchNorm mixes in training only
            lambda: models.mlp(64, 64, 10, dropout=0.5),
            lambda: nn.Sequential(nn.Unflatten(1, (8, 8)), models.Encoder(8, 10, 8)),
            lambda: nn.Sequential(nn.Unflatten(1, (8, 8)), models.Recurrent(nn.GRU, 8, 16, 10)),
        ],
        ids=["batchnorm", "dropout", "attention", "recurrent"],
    )
    def test_samples_that_do_not_mix(self, make: Callable[[], nn.Module]) -> None:
        model = make()
        given = batch(1, 8, 8) if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Conv2d) else batch()
        diagnosis = netdoctor.checkup(model, given, F.cross_entropy)
        assert "mixed-samples" not in slugs(diagnosis, Severity.NOTE)
        assert "mixed-samples" not in [skipped.rule for skipped in diagnosis.skipped]

    def test_nodes_of_a_graph_are_not_judged(self) -> None:
        graph = data.communities()
        model = models.GraphNetwork(16, 16, 4)
        diagnosis = netdoctor.checkup(model, (graph.x, graph.adjacency, graph.y), F.cross_entropy)
        assert "mixed-samples" in [skipped.rule for skipped in diagnosis.skipped]


class TestForms:
    def test_a_model_that_returns_its_loss_from_a_dict_batch(self) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = models.mlp(64, *[64] * 7, 10)
                models.initialise(self.body, lambda w: nn.init.normal_(w, 0, 0.01))

            def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
                logits = self.body(inputs)
                loss = None if labels is None else F.cross_entropy(logits, labels)
                return type("Output", (), {"loss": loss, "logits": logits})()

        x, y = batch()
        diagnosis = netdoctor.checkup(Model(), {"inputs": x, "labels": y})
        assert "poor-initialization" in slugs(diagnosis)
        assert diagnosis.findings[0].layers[0].startswith("body.")

    def test_a_loss_written_by_hand(self) -> None:
        model = models.VAE()

        def loss_fn(model: Any, given: Any) -> Tensor:
            out, mean, log_variance = model(given)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            loss: Tensor = F.mse_loss(out, given) + kl
            return loss

        assert slugs(netdoctor.checkup(model, batch()[0], loss_fn, torch.optim.Adam(model.parameters()))) == []

    def test_lbfgs(self) -> None:
        model = models.mlp(64, 16, 10)
        assert slugs(netdoctor.checkup(model, batch(), F.cross_entropy, torch.optim.LBFGS(model.parameters()))) == []

    def test_some_rules_only(self) -> None:
        model = models.mlp(64, 16, 10)
        diagnosis = netdoctor.checkup(model, batch(), F.cross_entropy, rules=["unnormalized-input", "overfitting"])
        assert [skipped.rule for skipped in diagnosis.skipped] == ["overfitting"]
        with pytest.raises(ValueError, match="unnormalized-input"):
            netdoctor.checkup(model, batch(), F.cross_entropy, ignore=["unnormalised-input"])

    def test_what_is_no_model(self) -> None:
        with pytest.raises(TypeError, match="Module"):
            netdoctor.checkup(print, batch(), F.cross_entropy)  # type: ignore[arg-type]


def test_a_hundred_layers_cost_two_passes_and_half_a_second() -> None:
    model = models.mlp(256, *[256] * 99, 10)
    x, y = torch.randn(64, 256), torch.randint(10, (64,))

    def seconds(run: Callable[[], Any]) -> float:
        start = process_time()
        run()
        return process_time() - start

    passes = min(seconds(lambda: F.cross_entropy(model(x), y).backward()) for _ in range(3))
    assert min(seconds(lambda: netdoctor.checkup(model, (x, y), F.cross_entropy)) for _ in range(3)) <= 2 * passes + 0.5
