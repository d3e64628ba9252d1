"""Each statistic of the history against its definition, in float64, on models small enough to be seen whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor import watch
from netdoctor.history import History
from netdoctor.statistics import QUANTILES, SATURATION, STATISTICS

EXACT = 1e-5  # relative: readings are float32
STEPS = 14


def model_of_all_kinds(seed: int = 0) -> nn.Sequential:
    """At most 64 samples of 64 units in every tensor; units of "2" are silent at times, "6" is saturated in part."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv1d(2, 8, 2, stride=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 24),
        nn.LayerNorm(24),
        nn.Linear(24, 20),
        nn.Tanh(),
        nn.Linear(20, 5),
    )
    with torch.no_grad():
        model.get_parameter("6.weight").mul_(8)
        model.get_parameter("1.bias")[:3] = torch.tensor(
            [-9.0, -2.2, -2.2]
        )  # one dead unit, two that are silent in some batches
    return model


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 2, 4, generator=generator) * 2 + 1, torch.randint(0, 5, (16,), generator=generator)


def double(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().double().numpy()


def by_unit(tensor: Tensor, name: str) -> np.ndarray[Any, Any]:
    """As [samples, units]."""
    array = double(tensor)
    return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]) if array.ndim > 2 else array


def rms(array: np.ndarray[Any, Any]) -> float:
    return float(np.sqrt(np.mean(np.square(array))))


def norm(arrays: list[np.ndarray[Any, Any]]) -> float:
    return float(np.sqrt(sum(np.square(a).sum() for a in arrays)))


class Oracle:
    """Trains a model by hand and notes, step by step, what each statistic must read."""

    def __init__(
        self, model: nn.Module, make: Callable[[nn.Module], torch.optim.Optimizer], clip: float | None = None
    ) -> None:
        self.model, self.optimizer, self.clip = model, make(model), clip
        self.outputs: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.expected: list[dict[tuple[str, str], float]] = []
        self.previous: dict[str, np.ndarray[Any, Any]] = {}
        self.alive: dict[str, list[np.ndarray[Any, Any]]] = {}
        for name, module in model.named_children():
            module.register_forward_hook(lambda m, args, out, name=name: self.note(name, args[0], out))

    def note(self, name: str, given: Tensor, output: Tensor) -> None:
        self.inputs[name], self.outputs[name] = given, output

    def step(self, x: Tensor, y: Tensor) -> None:
        want: dict[tuple[str, str], float] = {}
        loss = F.cross_entropy(self.model(x), y)
        names = [n for n in self.outputs if not isinstance(self.model.get_submodule(n), nn.Flatten)]
        at_outputs = torch.autograd.grad(loss, [self.outputs[n] for n in names], retain_graph=True)
        self.optimizer.zero_grad()
        loss.backward()
        want["loss", ""] = float(loss.detach())
        for name, gradient in zip(names, at_outputs, strict=True):
            out, given = by_unit(self.outputs[name], name), by_unit(self.inputs[name], name)
            self.alive.setdefault(name, []).append(np.asarray((out > 0).any(0)))
            want |= {
                ("activation_mean", name): out.mean(),
                ("activation_std", name): out.std(),
                ("activation_rms", name): rms(out),
                ("activation_max", name): float(np.abs(out).max()),
                ("activation_signal", name): np.sqrt(out.var(0).mean()),
                ("silent_share", name): float(np.mean(~np.asarray((out > 0).any(0)))),
            }
            if isinstance(self.model.get_submodule(name), (nn.Conv1d, nn.Linear)):
                want["activation_gradient_rms", name] = rms(double(gradient))
                want["gradient_zero_share", name] = np.mean(double(gradient) == 0)
            if len(self.alive[name]) >= 10:
                want["dead_share", name] = np.mean(~np.any(self.alive[name][-10:], 0))
            if not isinstance(self.model.get_submodule(name), (nn.ReLU, nn.Tanh)):
                want |= {
                    ("input_mean", name): given.mean(),
                    ("input_std", name): given.std(),
                    ("input_rms", name): rms(given),
                    ("input_max", name): np.abs(given).max(),
                    ("input_signal", name): np.sqrt(given.var(0).mean()),
                }
        want["saturated_share", "6"] = np.mean(np.abs(double(self.outputs["6"])) > SATURATION["tanh"])
        parameters = dict(self.model.named_parameters())
        raw = {n: double(p.grad).copy() for n, p in parameters.items() if p.grad is not None}
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        used = {n: double(p.grad).copy() for n, p in parameters.items() if p.grad is not None}
        before = {n: double(p).copy() for n, p in parameters.items()}
        want["learning_rate", "0"] = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        for name, parameter in parameters.items():
            update, weight = double(parameter) - before[name], before[name]
            want |= {
                ("weight_rms", name): rms(weight),
                ("weight_std", name): weight.std(),
                ("gradient_rms", name): rms(raw[name]),
                ("clipped_gradient_rms", name): rms(used[name]),
                ("update_rms", name): rms(update),
            }
            if rms(weight) > 0:
                want["update_ratio", name] = norm([update]) / norm([weight])
                want["unit_spread", name] = np.sqrt(weight.reshape(len(weight), -1).var(0).mean()) / rms(weight)
            if self.previous:
                old = self.previous[name]
                want["gradient_cosine", name] = (used[name] * old).sum() / norm([used[name]]) / norm([old])
        changes = {n: double(p) - before[n] for n, p in parameters.items()}
        want["step_gain", ""] = -sum(float((used[n] * changes[n]).sum()) for n in used)
        want["gradient_norm", ""] = norm(list(raw.values()))
        want["clipped_gradient_norm", ""] = norm(list(used.values()))
        if self.previous:
            product = sum((used[n] * self.previous[n]).sum() for n in used)
            want["cosine", ""] = product / norm(list(used.values())) / norm(list(self.previous.values()))
        self.previous = used
        self.expected.append(want)


def readings(history: History, statistic: str, column: str) -> dict[int, float]:
    steps, values = history.series(statistic, column)
    return dict(zip(steps.tolist(), values.tolist(), strict=True))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.05),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda model: torch.optim.Adam(model.parameters(), 1e-2),
    "adamw, not foreach": lambda model: torch.optim.AdamW(model.parameters(), 1e-2, foreach=False),
}
CASES = [("sgd", None, 1), ("momentum", 0.05, 1), ("adam", None, 1), ("adamw, not foreach", 0.05, 1), ("adam", 0.05, 3)]


@pytest.mark.parametrize(("name", "clip", "every"), CASES)
def test_every_statistic_is_what_its_definition_says(name, clip, every):
    oracle = Oracle(model_of_all_kinds(), OPTIMIZERS[name], clip)
    monitor = watch(oracle.model, every=every, reporters=[])
    for step in range(STEPS * every):
        oracle.step(*batch(step))
    history = monitor.history
    monitor.diagnose()
    seen = set()
    for step in range(1, STEPS * every + 1, every):
        for (statistic, column), value in oracle.expected[step - 1].items():
            if statistic == "dead_share" and every > 1:
                continue  # counts samples, not steps
            reading = readings(history, statistic, column).get(step)
            assert reading is not None, (statistic, column, step)
            # Differences of float32 weights, and means and deviations near zero, are known to their rounding only.
            absolute = {"update_ratio": 1e-6, "activation_mean": 1e-6, "input_mean": 1e-6, "step_gain": 1e-6}
            tolerance = absolute.get(statistic, 2e-6 if "cosine" in statistic else 1e-7)
            assert reading == pytest.approx(value, rel=EXACT, abs=tolerance), (statistic, column, step)
            seen.add(statistic)
    missing = {
        "val_loss",
        "sample_mixing",
        "target_rms",
        "target_mean",
        "target_std",
        "target_evenness",
        "probability_total",
        "several_labels_share",
        "gradient_nonzero",
        "activation_batch_signal",
        "input_batch_signal",
        "constant_loss",
        "non_finite_activation",
        "non_finite_gradient",
        "non_finite_weight",
        "non_finite_loss",
        "gradient_missing",
        "evaluation_mode",
        "loss_scale",
        *(statistic.name for statistic in QUANTILES),  # from here on in the tests of their own probes
        "effective_rank",
        "softmax_entropy",
        "softmax_balance",
        "attention_logit",
        "time_gradient",
        "leftover_gradient",
        "skipped_steps",
        "unchanged_share",
        "accuracy",
        "largest_predicted_share",
        "batch_class_share",
        "batch_class",
        "largest_class_share",
        "smallest_class_share",
        "one_hot_share",
        "target_low",
        "target_high",
        "output_low",
        "output_high",
        "uninformed_loss",
        "model_evaluation_mode",
        "running_mean",
        "running_std",
        "gate_spread",
        "model_input_mean",
        "model_input_std",
        "pass_steps",
        "residual_agreement",
        "rootless_loss",
        "penalty",
        "target_roughness",
        "weighed_ones_share",
        "replica_spread",
        "val_constant_loss",
        "val_accuracy",
        "val_training_share",
        "val_dropping",
        "val_input_mean",
        "val_input_std",
    }
    assert set(STATISTICS) - seen - missing - ({"dead_share"} if every > 1 else set()) == set()
    if clip:
        ratio = history.latest("clipped_gradient_norm")[""] / history.latest("gradient_norm")[""]
        assert ratio < 0.9
        assert history.latest("clipped_gradient_norm")[""] == pytest.approx(clip, rel=1e-3)
    if every == 1:
        assert max(readings(history, "dead_share", "2").values()) >= 1 / 8  # the unit that was made dead


def test_statistics_of_every_row_have_a_unit_a_site_and_a_meaning():
    for statistic in STATISTICS.values():
        assert statistic.meaning
        assert statistic.site in ("layer", "parameter", "group", "run")


def test_what_is_not_finite_is_counted_and_leaves_the_others_as_they_are():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    monitor = watch(model, every=1, reporters=[])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(3):
        with torch.no_grad():
            model.get_parameter("0.bias").fill_(5.0)  # every unit is active
            if step == 2:
                model.get_parameter("2.weight")[0, 0] = torch.inf
        loss = model(torch.ones(5, 4)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monitor.diagnose()
    latest = monitor.history.latest
    assert latest("non_finite_activation") == {"0": 0, "1": 0, "2": 1}
    assert latest("non_finite_gradient")["0.weight"] == 1
    assert latest("non_finite_weight")["2.weight"] == 1
    assert latest("activation_rms")["0"] > 0
    assert readings(monitor.history, "non_finite_loss", "") == {3: 1.0}


def test_norms_and_dropout_left_in_evaluation_mode_are_seen():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    monitor = watch(model, every=1, reporters=[])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(4):
        model.train(step < 2)
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()
    assert monitor.history.table("evaluation_mode").values[:, [1, 3]].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert np.isnan(monitor.history.table("evaluation_mode").values[:, [0, 2, 4]]).all()


def test_units_without_any_variety_have_no_spread():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.randn(1, 6).expand(8, 6))
    monitor = watch(model, every=1, reporters=[])
    model(torch.randn(4, 6)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    spread = monitor.history.latest("unit_spread")
    assert spread["0.weight"] < 1e-3
    assert spread["1.weight"] > 0.1


def train(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    steps: int = 5,
    every: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> History:
    monitor = watch(model, every=every, reporters=[])
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.01)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(step).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    monitor.diagnose()
    return monitor.history


def test_the_learning_rate_is_the_one_that_the_step_used():
    model = nn.Linear(3, 1)
    groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias], "lr": 1.0}]
    optimizer = torch.optim.SGD(groups, 0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    history = train(model, lambda step: model(torch.randn(2, 3)).sum(), 4, 1, optimizer, scheduler)
    assert list(readings(history, "learning_rate", "0").values()) == [0.5, 0.25, 0.125, 0.0625]
    assert list(readings(history, "learning_rate", "1").values()) == [1.0, 0.5, 0.25, 0.125]


# The loss of the best constant prediction, by brute force over constants where there is no formula.


def entropy(counts: np.ndarray[Any, Any]) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


LABELS = torch.tensor([[0, 0, 0, 1, 2, 0], [1, 1, 0, 2, 0, 0], [2, 2, 2, 1, 0, 0]])
POINTS = torch.tensor([[1.0, 2.0, 4.0, 9.0], [3.0, -1.0, 0.0, 2.0], [5.0, 5.0, 1.0, 0.0]])


@pytest.mark.parametrize("scale", [1.0, 0.25, 3.0])
def test_the_constant_loss_of_cross_entropy_is_the_entropy_of_the_labels_so_far(scale):
    model = nn.Linear(4, 3)
    history = train(model, lambda step: F.cross_entropy(model(torch.randn(6, 4)), LABELS[step]) * scale, 3)
    for step in (1, 2, 3):
        wanted = entropy(np.bincount(LABELS[:step].flatten().numpy(), minlength=3)) * scale
        assert readings(history, "constant_loss", "")[step] == pytest.approx(wanted, rel=EXACT)


def test_the_constant_loss_leaves_out_ignored_labels_and_sums_where_the_loss_does():
    model = nn.Linear(4, 3)
    labels = torch.tensor([0, 0, 1, -100])
    history = train(model, lambda step: F.cross_entropy(model(torch.randn(4, 4)), labels), 1)
    assert history.latest("constant_loss")[""] == pytest.approx(entropy(np.array([2, 1])), rel=EXACT)
    model = nn.Linear(4, 3)
    history = train(model, lambda step: F.cross_entropy(model(torch.randn(6, 4)), LABELS[0], reduction="sum"), 1)
    assert history.latest("constant_loss")[""] == pytest.approx(6 * entropy(np.array([4, 1, 1])), rel=EXACT)


@pytest.mark.parametrize("logits", [True, False])
def test_the_constant_loss_of_a_binary_loss_is_the_entropy_of_each_column(logits):
    model = nn.Linear(4, 2)
    targets = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])

    def loss_of(step: int) -> Tensor:
        out = model(torch.randn(4, 4))
        if logits:
            return F.binary_cross_entropy_with_logits(out, targets)
        return F.binary_cross_entropy(torch.sigmoid(out), targets)

    wanted = (entropy(np.array([1, 3])) + entropy(np.array([3, 1]))) / 2
    assert train(model, loss_of, 2).latest("constant_loss")[""] == pytest.approx(wanted, rel=EXACT)


def test_the_constant_loss_of_squared_errors_is_the_variance_of_the_targets_so_far():
    model = nn.Linear(4, 1)
    history = train(model, lambda step: F.mse_loss(model(torch.randn(4, 4)).squeeze(1), POINTS[step]), 3)
    for step in (1, 2, 3):
        wanted = POINTS[:step].double().var().item()
        assert readings(history, "constant_loss", "")[step] == pytest.approx(wanted, rel=EXACT)
        assert readings(history, "target_rms", "")[step] == pytest.approx(rms(double(POINTS[:step])), rel=EXACT)


def test_the_constant_loss_of_absolute_errors_is_that_of_the_median_of_the_targets_so_far():
    """`l1_loss` is made of sub, abs and mean: the difference is kept, and tells of the target with the output."""
    model = nn.Linear(4, 1)
    history = train(model, lambda step: F.l1_loss(model(torch.randn(4, 4)).squeeze(1), POINTS[step]), 3)
    assert history.facts.loss.kind == "l1"
    for step in (1, 2, 3):
        seen = POINTS[:step].double().flatten()
        wanted = (seen - seen.median()).abs().mean().item()
        assert readings(history, "constant_loss", "")[step] == pytest.approx(wanted, rel=EXACT)


def test_losses_that_are_accumulated_are_summed_and_so_is_the_constant_loss():
    model = nn.Linear(4, 3)
    monitor = watch(model, every=1, reporters=[])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    totals = []
    for _ in range(3):
        optimizer.zero_grad()
        losses = [F.cross_entropy(model(torch.randn(6, 4)), labels) / 3 for labels in LABELS]
        for loss in losses:
            loss.backward()
        totals.append(sum(float(loss.detach()) for loss in losses))
        optimizer.step()
    monitor.diagnose()
    assert list(readings(monitor.history, "loss", "").values()) == pytest.approx(totals, rel=EXACT)
    wanted = entropy(np.bincount(LABELS.flatten().numpy()))
    assert list(readings(monitor.history, "constant_loss", "").values()) == pytest.approx([wanted] * 3, rel=EXACT)


def test_a_gradient_scaler_changes_neither_loss_nor_gradients():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    twin = nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(6, 4)
    plain = train(twin, lambda step: F.cross_entropy(twin(x), LABELS[step]), 3)
    monitor = watch(model, every=1, reporters=[])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), LABELS[step])).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        scaler.step(optimizer)
        scaler.update()
    monitor.diagnose()
    for statistic in ("loss", "constant_loss", "gradient_norm", "clipped_gradient_norm"):
        scaled, unscaled = (readings(history, statistic, "") for history in (monitor.history, plain))
        assert scaled == pytest.approx(unscaled, rel=EXACT), statistic
    assert set(readings(monitor.history, "loss_scale", "").values()) == {1024.0}


def test_each_optimizer_with_losses_of_its_own_has_its_own_curve():
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Linear(2, 3), "d": nn.Linear(3, 1)})
    monitor = watch(model, every=1, reporters=[])
    optimizers = [torch.optim.SGD(part.parameters(), 0.01) for part in model.values()]
    curves: list[list[float]] = [[], []]
    for _, (i, optimizer) in itertools.product(range(4), enumerate(optimizers)):
        optimizer.zero_grad()
        loss = model["d"](model["g"](torch.randn(5, 2))).mean() * (1 if i else -1)
        curves[i].append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    monitor.diagnose()
    assert list(readings(monitor.history, "loss", "").values()) == pytest.approx(curves[0], rel=EXACT)
    assert list(readings(monitor.history, "loss", "optimizer 2").values()) == pytest.approx(curves[1], rel=EXACT)
    assert monitor.history.facts.several_losses


def test_two_optimizers_of_one_loss_share_its_curve():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    monitor = watch(model, every=1, reporters=[])
    optimizers = [torch.optim.SGD(model[i].parameters(), 0.01) for i in (0, 2)]
    curve = []
    for _ in range(4):
        model.zero_grad()
        loss = model(torch.randn(5, 2)).square().mean()
        curve.append(float(loss.detach()))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    monitor.diagnose()
    assert list(readings(monitor.history, "loss", "").values()) == pytest.approx(curve, rel=EXACT)
    assert not monitor.history.facts.several_losses
    assert set(monitor.history.latest("update_ratio")) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_large_layers_are_estimated():
    """1.1 % error of a standard deviation from 64 samples of 64 units; four such errors are allowed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 700), nn.ReLU(), nn.Linear(700, 10))
    seen: dict[str, Tensor] = {}
    for name in "02":
        model.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    x = torch.randn(256, 300)
    history = train(model, lambda step: F.cross_entropy(model(x), torch.arange(256) % 10), 1)
    for name, output in seen.items():
        assert history.latest("activation_std")[name] == pytest.approx(
            output.std().item(), rel=0.05 if name == "0" else 0.15
        )
    assert history.latest("weight_std")["0.weight"] == pytest.approx(
        model.get_parameter("0.weight").std().item(), rel=0.05
    )
    assert history.latest("silent_share")["1"] == pytest.approx(0.0, abs=0.05)
