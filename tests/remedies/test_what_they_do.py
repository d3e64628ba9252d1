"""What the treatments change, held against what torch or plain arithmetic says it should be."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, SequentialLR, StepLR

from netdoctor import remedies
from netdoctor.facts import Facts, Layer, Parameter
from netdoctor.findings import Remedy
from netdoctor.treatment import RemedyError
from tests.remedies.patients import patient
from tests.remedies.test_undo import CONVOLUTIONS, LINEARS


def _note_rates(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    optimizer.register_step_pre_hook(lambda used, args, kwargs: rates.append(used.param_groups[0]["lr"]))


class TestWeights:
    def test_kaiming_for_a_relu_and_xavier_for_tanh(self) -> None:
        sick = patient()
        big = nn.Sequential(nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100))
        facts = Facts(
            layers=tuple(
                Layer(name, "linear", "Linear", "", fan, 0, 0, function)
                for name, fan, function in (("0", 400, "tanh"), ("2", 300, "relu"), ("4", 200, "identity"))
            )
        )
        remedies.initialise(facts, ("0", "2", "4")).apply(big, None)
        for name, std in (("0", 5 / 3 / 20), ("2", math.sqrt(2 / 300)), ("4", math.sqrt(1 / 200))):
            assert float(big.get_parameter(f"{name}.weight").std()) == pytest.approx(std, rel=0.03)
            assert not big.get_parameter(f"{name}.bias").any()
        assert "std" in str(remedies.initialise(sick.facts, LINEARS).apply(sick.model, sick.optimizer))

    def test_recurrent_matrices_are_orthogonal_gate_by_gate(self) -> None:
        sick = patient("tagger")
        remedies.initialise(sick.facts, ("recurrent", "attention")).apply(sick.model, sick.optimizer)
        for block in sick.model.get_parameter("recurrent.weight_hh_l0").split(8):
            assert torch.allclose(block @ block.T, torch.eye(8), atol=1e-5)
        bound = math.sqrt(6 / 16)
        for block in sick.model.get_parameter("attention.in_proj_weight").split(8):
            assert 0.5 * bound < float(block.abs().max()) <= bound
        assert not sick.model.get_parameter("recurrent.bias_hh_l0").any()

    @pytest.mark.parametrize("kind", ["mlp", "tagger"])
    def test_the_code_does_what_apply_does(self, kind: str) -> None:
        layers = LINEARS if kind == "mlp" else ("recurrent", "attention", "head")
        by_code, by_apply = patient(kind), patient(kind)
        for make in (remedies.initialise, remedies.orthogonal) if kind == "mlp" else (remedies.initialise,):
            remedy = make(by_code.facts, layers)
            torch.manual_seed(1)
            exec(remedy.code, {"model": by_code.model, "nn": nn})
            torch.manual_seed(1)
            remedy.apply(by_apply.model)
            for (name, written), (_, applied) in zip(
                by_code.model.named_parameters(), by_apply.model.named_parameters(), strict=True
            ):
                torch.testing.assert_close(written, applied, rtol=2e-3, atol=2e-3, msg=name)

    def test_residual_projections_are_smaller_by_the_root_of_their_number(self) -> None:
        sick = patient("tagger")
        stream = ("recurrent", "attention", "head")
        layers = tuple(
            Layer(name, kind, residual=name == "attention")
            for name, kind in zip(stream, ("recurrent", "attention", "linear"), strict=True)
        )
        deep = Facts(
            layers=(*layers, *(Layer(f"block{i}", "linear", residual=True) for i in range(3))),
            parameters=sick.facts.parameters,
        )
        remedies.initialise_transformer(deep).apply(sick.model, sick.optimizer)
        out, into = (sick.model.get_parameter(name) for name in ("attention.in_proj_weight", "recurrent.weight_ih_l0"))
        assert float(out.std()) == pytest.approx(0.02 / 2, rel=0.2)
        assert float(into.std()) == pytest.approx(0.02, rel=0.2)

    def test_data_scaling_gives_every_layer_an_output_of_std_one(self) -> None:
        sick = patient()
        for name in LINEARS:
            nn.init.normal_(sick.model.get_parameter(f"{name}.weight"), std=1e-4)
        treatment = remedies.rescale_by_data(LINEARS).apply(sick.model, sick.optimizer)
        seen: dict[str, float] = {}
        for name in LINEARS:
            sick.model.get_submodule(name).register_forward_hook(
                lambda m, a, out, name=name: seen.__setitem__(name, float(out.detach().std()))
            )
        generator = torch.get_rng_state()
        sick.model.get_submodule("4").p = 0.0  # type: ignore[assignment]
        sick.model(sick.x)
        assert seen == pytest.approx(dict.fromkeys(LINEARS, 1.0), rel=1e-3)
        assert torch.equal(torch.get_rng_state(), generator)
        assert any(change.what == "0.weight" for change in treatment.changes)
        sick.train(1)

    def test_moments_of_replaced_weights_are_forgotten_and_that_is_said(self) -> None:
        sick = patient(steps=5)
        treatment = remedies.initialise(sick.facts, LINEARS).apply(sick.model, sick.optimizer)
        assert not sick.optimizer.state
        assert any("6 parameters" in note and "reset" in note for note in treatment.notes)
        assert any("optimizer" in note for note in remedies.initialise(sick.facts, ["0"]).apply(sick.model).notes)


class TestModules:
    def test_batchnorm_stands_before_the_nonlinearity_and_is_trained(self) -> None:
        sick = patient("cnn", steps=2)
        names = dict(sick.model.named_parameters())
        remedies.normalise(sick.facts, CONVOLUTIONS[:2]).apply(sick.model, sick.optimizer)
        body = sick.model.get_submodule("0")
        kinds = [type(module).__name__ for module in body.modules() if not list(module.children())]
        assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "MaxPool2d"]
        assert {name: p for name, p in sick.model.named_parameters() if name in names} == names
        assert len(sick.optimizer.param_groups) == 1
        held = {id(p) for p in sick.optimizer.param_groups[0]["params"]}
        assert held == {id(p) for p in sick.model.parameters()}
        before = [p.detach().clone() for p in sick.model.parameters()]
        sick.train(1)
        assert all(not torch.equal(a, b) for a, b in zip(before, sick.model.parameters(), strict=True))

    def test_a_scheduler_goes_on_after_parameters_joined(self) -> None:
        sick = patient()
        scheduler = LambdaLR(sick.optimizer, lambda step: 0.5**step)
        remedies.normalise(sick.facts, ("0",)).apply(sick.model, sick.optimizer)
        sick.train(1)
        scheduler.step()
        assert [group["lr"] for group in sick.optimizer.param_groups] == [0.005]

    def test_sequences_and_tiny_batches_get_layernorm(self) -> None:
        facts = Facts(
            layers=(Layer("fc", "linear", "Linear", units=4, samples=80), Layer("conv", "conv", "Conv2d", units=4)),
            batch=16,
        )
        assert "nn.LayerNorm(4)" in remedies.normalise(facts, ["fc"]).code
        assert "nn.BatchNorm2d(4)" in remedies.normalise(facts, ["conv"]).code
        tiny = facts.with_changes(batch=2)
        assert "nn.GroupNorm(1, 4)" in remedies.normalise(tiny, ["conv"]).code

    def test_a_nonlinearity_between_two_layers_renames_nothing(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        names = [name for name, _ in model.named_parameters()]
        x = torch.randn(5, 4)
        expected = model[1](model[0](x).relu())
        treatment = remedies.insert_nonlinearity(["0"]).apply(model)
        assert [name for name, _ in model.named_parameters()] == names
        assert torch.equal(model(x), expected)
        treatment.undo()
        assert len(model) == 2

    def test_eval_mode_is_kept(self) -> None:
        sick = patient()
        sick.model.eval()
        remedies.insert_dropout(["1"]).apply(sick.model)
        assert not any(module.training for module in sick.model.modules())

    def test_without_softmax_the_model_gives_logits(self) -> None:
        sick = patient()
        body = nn.Sequential(*list(sick.model.children())[:-1])
        remedies.remove_softmax(["6"]).apply(sick.model)
        sick.model.eval()
        assert torch.equal(sick.model(sick.x), body.eval()(sick.x))


class TestOptimizer:
    def test_the_norm_is_clipped_at_each_step(self) -> None:
        sick = patient(adam=False)
        sick.optimizer.param_groups[0].update(lr=1.0, momentum=0.0)
        treatment = remedies.clip_gradients(1e-3).apply(sick.model, sick.optimizer)
        before = [p.detach().clone() for p in sick.model.parameters()]
        sick.train(1)
        moved = [(p.detach() - b).norm() for p, b in zip(sick.model.parameters(), before, strict=True)]
        assert float(torch.stack(moved).norm()) == pytest.approx(1e-3, rel=1e-3)
        treatment.undo()
        before = [p.detach().clone() for p in sick.model.parameters()]
        sick.train(1)
        moved = [(p.detach() - b).norm() for p, b in zip(sick.model.parameters(), before, strict=True)]
        assert float(torch.stack(moved).norm()) > 1e-2

    def test_a_learning_rate_that_is_a_tensor_stays_the_same_object(self) -> None:
        sick = patient()
        rate = torch.tensor(0.01)
        sick.optimizer.param_groups[0]["lr"] = rate
        treatment = remedies.scale_learning_rate(0.5).apply(sick.model, sick.optimizer)
        assert sick.optimizer.param_groups[0]["lr"] is rate
        assert float(rate) == pytest.approx(0.005)
        treatment.undo()
        assert float(rate) == pytest.approx(0.01)

    @pytest.mark.parametrize("kind", ["lambda", "step", "several"])
    def test_a_scheduled_rate_is_scaled_whatever_the_scheduler(self, kind: str) -> None:
        used = []
        for factor in (1.0, 0.1):
            sick = patient(adam=False)
            scheduler: LRScheduler
            if kind == "lambda":
                scheduler = LambdaLR(sick.optimizer, lambda step: 0.9**step)
            elif kind == "step":
                scheduler = StepLR(sick.optimizer, 2, 0.5)
            else:
                parts = [LinearLR(sick.optimizer, 0.1, total_iters=2), CosineAnnealingLR(sick.optimizer, 5)]
                scheduler = SequentialLR(sick.optimizer, parts, [2])
            if factor != 1:
                remedies.scale_learning_rate(factor).apply(sick.model, sick.optimizer)
            rates: list[float] = []
            _note_rates(sick.optimizer, rates)
            for _ in range(6):
                sick.train(1)
                scheduler.step()
            used.append(rates)
        assert used[1] == pytest.approx([0.1 * rate for rate in used[0]])

    def test_warm_up_and_cosine_follow_their_curve(self) -> None:
        sick = patient()
        remedies.warm_up_and_decay(4, 12).apply(sick.model, sick.optimizer)
        rates = []
        for _ in range(14):
            sick.train(1)
            rates.append(sick.optimizer.param_groups[0]["lr"])
        rising = [0.01 * (0.01 + 0.99 * i / 4) for i in range(4)]
        falling = [0.01 * 0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
        assert rates == pytest.approx([*rising, *falling, 0, 0], abs=1e-12)

    def test_a_decay_in_place_of_a_scheduler_that_goes_on_by_itself(self) -> None:
        sick = patient()
        scheduler = LambdaLR(sick.optimizer, lambda step: 0.1**step)
        remedies.decay_instead([0.5], 10).apply(sick.model, sick.optimizer)
        used: list[float] = []
        _note_rates(sick.optimizer, used)
        for _ in range(4):
            sick.train(1)
            scheduler.step()
        assert used == pytest.approx([0.25 * (1 + math.cos(math.pi * i / 10)) for i in range(4)])
        assert sick.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**4)

    def test_a_rate_that_the_program_sets_is_the_new_base(self) -> None:
        sick = patient()
        remedies.warm_up(4).apply(sick.model, sick.optimizer)
        sick.train(10)
        assert sick.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
        sick.optimizer.param_groups[0]["lr"] = 0.5
        sick.train(1)
        assert sick.optimizer.param_groups[0]["lr"] == pytest.approx(0.5)

    def test_the_rate_falls_where_the_loss_does_not(self) -> None:
        sick = patient()
        remedies.reduce_on_plateau(0.5, window=2).apply(sick.model, sick.optimizer)
        parameter = next(sick.model.parameters())
        losses = [3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 5.0, 5.0, 5.0]  # the 3rd window and the 5th are no lower
        rates = []
        for loss in losses:
            sick.optimizer.zero_grad()
            (loss + 0 * parameter.sum()).backward()
            sick.optimizer.step()
            rates.append(sick.optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx([0.01] * 6 + [0.005] * 4 + [0.0025])

    def test_parameters_that_were_missing_learn_and_the_others_keep_their_moments(self) -> None:
        sick = patient()
        parameters = list(sick.model.parameters())
        sick.optimizer.param_groups[0]["params"] = parameters[:2]
        sick.train(3)
        moments = sick.optimizer.state[parameters[0]]["exp_avg"].clone()
        missing = [name for name, _ in list(sick.model.named_parameters())[2:]]
        treatment = remedies.add_missing_parameters(missing).apply(sick.model, sick.optimizer)
        assert [(c.before, c.after) for c in treatment.changes] == [("2", "6")]
        assert torch.equal(sick.optimizer.state[parameters[0]]["exp_avg"], moments)
        before = parameters[-1].detach().clone()
        sick.train(1)
        assert not torch.equal(parameters[-1], before)
        treatment.undo()
        assert len(sick.optimizer.param_groups[0]["params"]) == 2
        assert parameters[-1] not in sick.optimizer.state

    def test_an_optimizer_with_names_gets_the_names_too(self) -> None:
        sick = patient()
        optimizer = torch.optim.SGD(list(sick.model.named_parameters())[:2], lr=0.1)
        remedies.add_missing_parameters().apply(sick.model, optimizer)
        assert optimizer.param_groups[0]["param_names"] == [name for name, _ in sick.model.named_parameters()]
        optimizer.state_dict()

    def test_the_optimizer_of_a_copy_takes_over(self) -> None:
        sick, other = patient(), patient(steps=3)
        treatment = remedies.take_over().apply(sick.model, other.optimizer)
        assert list(sick.model.parameters()) == other.optimizer.param_groups[0]["params"]
        assert other.optimizer.param_groups[0]["lr"] == 0.01
        treatment.undo()
        assert other.optimizer.param_groups[0]["params"][0] is next(other.model.parameters())
        assert len(other.optimizer.state) == 6


class TestCriterion:
    def test_label_smoothing(self) -> None:
        sick = patient()
        remedies.smooth_labels(0.2).apply(sick.model, sick.optimizer, sick.criterion)
        expected = F.cross_entropy(sick.x[:, :3], sick.y, label_smoothing=0.2)
        assert torch.equal(sick.criterion(sick.x[:, :3], sick.y), expected)

    def test_class_weights_are_inverse_frequencies(self) -> None:
        sick = patient()
        remedies.weigh_classes([10, 20, 70]).apply(sick.model, sick.optimizer, sick.criterion)
        expected = F.cross_entropy(sick.x[:, :3], sick.y, weight=torch.tensor([100 / 30, 100 / 60, 100 / 210]))
        assert torch.allclose(sick.criterion(sick.x[:, :3], sick.y), expected)
        one = nn.BCEWithLogitsLoss()
        remedies.weigh_classes([90, 10]).apply(sick.model, sick.optimizer, one)
        assert float(one.pos_weight) == pytest.approx(9)  # type: ignore[arg-type]

    def test_the_mean_in_place_of_the_sum(self) -> None:
        sick, criterion = patient(), nn.MSELoss(reduction="sum")
        treatment = remedies.average_loss().apply(sick.model, None, criterion)
        assert float(criterion(torch.zeros(4), torch.ones(4))) == 1
        treatment.undo()
        assert float(criterion(torch.zeros(4), torch.ones(4))) == 4
        with pytest.raises(RemedyError, match="sums up nothing"):
            remedies.average_loss().apply(sick.model, None, nn.MSELoss())


class TestTraining:
    def test_steps_after_the_last_one_change_nothing(self) -> None:
        sick, twin = patient("normed"), patient("normed")
        treatment = Remedy("stop", treatment=remedies.stop_at(3)).apply(sick.model, sick.optimizer)
        sick.train(8)
        twin.train(3)
        for (name, kept), now in zip(twin.model.state_dict().items(), sick.model.state_dict().values(), strict=True):
            assert torch.equal(kept, now), name
        treatment.undo()
        sick.train(1)
        assert not torch.equal(next(sick.model.parameters()), next(twin.model.parameters()))

    def test_half_precision_weights_and_inputs_become_float32(self) -> None:
        sick = patient("half", steps=3)
        remedies.weights_in_float32("bfloat16").apply(sick.model, sick.optimizer)
        assert {p.dtype for p in sick.model.parameters()} == {torch.float32}
        assert sick.model(sick.x).dtype == torch.float32
        sick.train(2)

    def test_a_gated_layer_learns_in_the_place_of_a_plain_one(self) -> None:
        sick = patient("reader", steps=3)
        remedies.gated(sick.facts.layer("recurrent"), 20).apply(sick.model, sick.optimizer)
        assert isinstance(sick.model.get_submodule("recurrent"), nn.GRU)
        held = {id(p) for group in sick.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in sick.model.parameters()}
        before = sick.loss()
        sick.train(20)
        assert sick.loss() < before


def test_parameter_facts_are_enough_for_a_transformer_without_weights() -> None:
    remedy = remedies.initialise_transformer(Facts(parameters=(Parameter("norm.weight", "norm", (4,), "norm"),)))
    assert not remedy.applicable
