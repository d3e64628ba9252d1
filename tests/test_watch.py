"""What `watch` takes and refuses, and what the monitor learns of a training by itself."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor import History, Monitor, watch
from netdoctor.facts import Facts

silent = functools.partial(watch, reporters=[], every=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def losses(monitor: Monitor) -> list[float]:
    monitor.diagnose()  # what waits on the device comes in
    return [float(value) for value in monitor.history.series("loss")[1]]


# Bad input.

given: Any = watch  # untyped: what a type checker would refuse

BAD: dict[str, tuple[Callable[[], Any], type[Exception], list[str]]] = {
    "a function": (lambda: given(print), TypeError, ["torch.nn.Module", "builtin_function_or_method"]),
    "a class": (lambda: given(nn.Linear), TypeError, ["torch.nn.Module", "type"]),
    "parameters": (lambda: given(mlp().parameters()), TypeError, ["torch.nn.Module", "generator"]),
    "none": (lambda: given(None), TypeError, ["torch.nn.Module", "NoneType"]),
    "no parameters": (lambda: given(nn.ReLU()), ValueError, ["ReLU", "no parameters"]),
    "optimizer": (lambda: given(mlp(), "adam"), TypeError, ["torch.optim.Optimizer", "str"]),
    "scheduler": (
        lambda: given(mlp(), torch.optim.lr_scheduler.StepLR(torch.optim.SGD(mlp().parameters(), 0.1), 1)),
        TypeError,
        ["torch.optim.Optimizer", "StepLR"],
    ),
    "budget 0": (lambda: given(mlp(), budget=0), ValueError, ["budget", "above 0", "at most 1", "not 0"]),
    "budget 5": (lambda: given(mlp(), budget=5), ValueError, ["budget", "above 0", "at most 1", "not 5"]),
    "budget nan": (lambda: given(mlp(), budget=math.nan), ValueError, ["budget", "nan"]),
    "budget text": (lambda: given(mlp(), budget="1%"), ValueError, ["budget", "'1%'"]),
    "budget true": (lambda: given(mlp(), budget=True), ValueError, ["budget", "True"]),
    "every 0": (lambda: given(mlp(), every=0), ValueError, ["every", "1 or more", "not 0"]),
    "every -3": (lambda: given(mlp(), every=-3), ValueError, ["every", "-3"]),
    "every 1.5": (lambda: given(mlp(), every=1.5), ValueError, ["every", "1.5"]),
    "rule": (
        lambda: given(mlp(), rules=["dead-unit"]),
        ValueError,
        ["'dead-unit'", "mean 'dead-units'", "overfitting"],
    ),
    "rules text": (lambda: given(mlp(), rules="dead-units"), TypeError, ["list", "['dead-units']"]),
    "rules number": (lambda: given(mlp(), rules=[3]), TypeError, ["slug", "int"]),
    "rules function": (lambda: given(mlp(), rules=[print]), TypeError, ["slug", "builtin_function_or_method"]),
    "ignore": (lambda: given(mlp(), ignore=["overfiting"]), ValueError, ["'overfiting'", "mean 'overfitting'"]),
    "ignore text": (lambda: given(mlp(), ignore="overfitting"), TypeError, ["list", "['overfitting']"]),
    "ignore number": (lambda: given(mlp(), ignore=[3]), TypeError, ["slug", "int"]),
    "reporter": (lambda: given(mlp(), reporters=["consol"]), ValueError, ["'consol'", "mean 'console'"]),
    "reporters text": (lambda: given(mlp(), reporters="console"), TypeError, ["list", "['console']"]),
    "reporters object": (lambda: given(mlp(), reporters=[3]), TypeError, ["report()", "close()", "int"]),
    "layers": (
        lambda: given(nn.Sequential(mlp()), layers=["0.9"]),
        ValueError,
        ["'0.9'", "Did you mean '0.", "0.0, 0.1"],
    ),
    "layers text": (lambda: given(mlp(), layers="0"), TypeError, ["list", "['0']"]),
    "layers number": (lambda: given(mlp(), layers=[0]), TypeError, ["pattern", "int"]),
}


@pytest.mark.parametrize(("call", "error", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], says: list[str]) -> None:
    backward = torch.autograd.backward
    with pytest.raises(error) as caught:
        call()
    for part in says:
        assert part in str(caught.value)
    assert torch.autograd.backward is backward  # nothing was installed


def test_a_refused_call_leaves_no_hooks() -> None:
    model = mlp()
    for wrong in ({"budget": 0}, {"rules": ["x"]}, {"reporters": ["x"]}, {"layers": ["x"]}, {"every": 0}):
        with pytest.raises(ValueError, match=r"."):
            watch(model, **wrong)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"loss": "0.3"}, TypeError, ["loss", "str"]),
        ({"loss": [0.3]}, TypeError, ["loss", "list"]),
        ({"loss": True}, TypeError, ["loss", "bool"]),
        ({"loss": torch.zeros(3)}, ValueError, ["loss", "(3,)"]),
        ({"val_loss": torch.zeros(0)}, ValueError, ["val_loss", "(0,)"]),
        ({"accuracy": {}}, TypeError, ["accuracy", "dict"]),
    ],
)
def test_bad_observations_are_refused(given: dict[str, Any], error: type[Exception], says: list[str]) -> None:
    with silent(mlp()) as monitor:
        with pytest.raises(error) as caught:
            monitor.observe(**given)
        assert monitor.history.statistics == ()
    for part in says:
        assert part in str(caught.value)


def test_choice_of_layers_and_rules() -> None:
    model = nn.ModuleDict({"encoder": mlp(), "decoder": nn.Sequential(nn.Linear(3, 6))})
    with silent(model, layers=["encoder.*"], rules=["non-finite", "dead-units"], ignore=["dead-units"]) as monitor:
        loss = model["decoder"](model["encoder"](torch.randn(4, 6))).square().mean()
        loss.backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert set(monitor.history.table("activation_rms").columns) == {"encoder.0", "encoder.1", "encoder.2"}
        assert {skipped.rule for skipped in monitor.diagnose().skipped} <= {"non-finite"}
        assert len(monitor.history.facts.parameters) == 6


# The optimizer.


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1, inputs: int = 6) -> list[float]:
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.randn(8, inputs)), torch.randint(0, 3, (8,)))
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def test_optimizer_is_found_at_its_first_step() -> None:
    model, other = mlp(), mlp()
    with silent(model) as monitor:
        assert monitor.history.facts.groups == ()
        train(other, torch.optim.SGD(other.parameters(), 0.1), 3)
        assert monitor.step == 0
        first: dict[str, Any] = {"params": model[0].parameters(), "lr": 1e-2}
        optimizer = torch.optim.AdamW([first, {"params": [model[2].weight], "betas": (0.5, 0.9)}], lr=1e-3)
        train(model, optimizer, 2)
        optimizer.param_groups[0]["lr"] = 5e-3
        train(model, optimizer)
        assert monitor.step == 3
        facts = monitor.history.facts
        assert [(g.optimizer, g.index, g.learning_rate, g.weight_decay, g.momentum) for g in facts.groups] == [
            ("AdamW", 0, 1e-2, 1e-2, 0.9),
            ("AdamW", 1, 1e-3, 1e-2, 0.5),
        ]
        assert {p.name: p.group for p in facts.parameters} == {
            "0.weight": 0,
            "0.bias": 0,
            "2.weight": 1,
            "2.bias": None,
        }
        assert facts.optimizers_elsewhere == 1
        assert monitor.history.series("learning_rate", "0")[1].tolist() == pytest.approx([1e-2, 1e-2, 5e-3])
        assert monitor.history.series("learning_rate", "1")[1].tolist() == pytest.approx([1e-3] * 3)
        assert math.isnan(monitor.history.table("update_rms").values[-1][3])  # 2.bias, which no optimizer holds


def test_optimizer_can_be_passed() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.8)
    with watch(model, optimizer, reporters=[], every=1) as monitor:
        train(model, optimizer)
        assert [(g.optimizer, g.momentum) for g in monitor.history.facts.groups] == [("SGD", 0.8)]


def test_param_group_added_later() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    with silent(model) as monitor:
        train(model, optimizer, 2)
        optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.01})
        train(model, optimizer, 2)
        assert [p.group for p in monitor.history.facts.parameters] == [0, 0, 1, 1]
        assert [g.learning_rate for g in monitor.history.facts.groups] == [0.1, 0.01]


@pytest.mark.parametrize("kept", [False, True])
def test_one_optimizer_in_place_of_another(kept: bool) -> None:
    """The head first, then everything: fine-tuning."""
    model = mlp()
    with watch(model, reporters=[], every=5) as monitor:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model[2].parameters(), 0.01)
        first = [optimizer] if kept else []
        train(model, optimizer, 100)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        seen = train(model, optimizer, 200)
        assert len(first) == kept
        assert monitor.step in (299, 300)
        assert losses(monitor)[-100:] == pytest.approx(seen[-100:])
        assert monitor.history.table("activation_rms").steps[-1] > 290
        assert not monitor.history.facts.several_losses
        assert [g.optimizer for g in monitor.history.facts.groups] == ["Adam", "SGD"]
        assert [p.group for p in monitor.history.facts.parameters] == [1, 1, 1, 1]


def test_updates_are_measured() -> None:
    model = mlp()
    weight: Any = model[0].weight
    before = weight.detach().clone()
    with silent(model) as monitor:
        train(model, torch.optim.Adam(model.parameters(), 1e-2))
        update = weight.detach() - before
        latest = monitor.history.latest
        assert latest("update_ratio")["0.weight"] == pytest.approx(float(update.norm() / before.norm()), rel=1e-5)
        assert latest("gradient_rms")["0.weight"] == pytest.approx(float(weight.grad.square().mean().sqrt()))


def test_clipping_is_seen() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        F.cross_entropy(model(torch.randn(8, 6)), torch.randint(0, 3, (8,))).backward()
        before = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        latest = monitor.history.latest
        assert latest("gradient_norm")[""] == pytest.approx(float(before), rel=1e-5)
        assert latest("clipped_gradient_norm")[""] == pytest.approx(0.01, rel=1e-3)


# The loss.


def test_losses_of_every_step_are_kept() -> None:
    model = mlp()
    with watch(model, reporters=[], every=7) as monitor:
        seen = train(model, torch.optim.SGD(model.parameters(), 0.1), 20)
        assert losses(monitor) == pytest.approx(seen)
        assert monitor.history.series("loss")[0].tolist() == list(range(1, 21))
        assert monitor.history.table("activation_rms").steps.tolist() == [1, 8, 15]


def test_accumulation_sums_the_losses_of_a_step() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sums = []
    with silent(model) as monitor:
        for _ in range(5):
            parts = []
            for _ in range(4):
                loss = F.cross_entropy(model(torch.randn(8, 6)), torch.randint(0, 3, (8,))) / 4
                loss.backward()
                parts.append(loss.item())
            sums.append(sum(parts))
            optimizer.step()
            optimizer.zero_grad()
        assert monitor.step == 5
        assert losses(monitor) == pytest.approx(sums)
        assert monitor.history.latest("constant_loss")[""] == pytest.approx(math.log(3), abs=0.15)


def test_two_losses_of_one_step_are_summed() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        out = model(torch.randn(8, 6))
        first, second = F.cross_entropy(out, torch.randint(0, 3, (8,))), out.square().mean()
        first.backward(retain_graph=True)
        second.backward()
        optimizer.step()
        assert losses(monitor) == pytest.approx([first.item() + second.item()])


def test_losses_of_another_model_are_left_out() -> None:
    model, other = mlp(), mlp()
    own, theirs = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(other.parameters(), 0.1)
    with silent(model) as monitor:
        seen = []
        for _ in range(3):
            seen += train(model, own)
            train(other, theirs)
        assert losses(monitor) == pytest.approx(seen)
        assert monitor.step == 3


def test_explicit_loss_wins() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        train(model, optimizer, 2)
        monitor.observe(7.5)
        train(model, optimizer)
        monitor.observe(loss=torch.tensor([8.5]), accuracy=0.25, f1=torch.tensor(0.5))
        assert losses(monitor)[1:] == [7.5, 8.5]
        assert monitor.history.latest("metric/accuracy") == {"": 0.25}
        assert monitor.history.latest("metric/f1") == {"": 0.5}


def validate(model: nn.Module, sizes: list[int]) -> float:
    """A validation pass; the mean over its samples."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for size in sizes:
            loss = nn.CrossEntropyLoss()(model(torch.randn(size, 6)), torch.randint(0, 3, (size,)))
            total += loss.item() * size
    model.train()
    return total / sum(sizes)


def test_validation_loss_is_read() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    means = []
    with silent(model) as monitor:
        for _ in range(3):
            train(model, optimizer, 4)
            means.append(validate(model, [16, 16, 5]))
        monitor.diagnose()
        steps, values = monitor.history.series("val_loss")
        assert steps.tolist() == [4, 8, 12]
        assert values.tolist() == pytest.approx(means)


def test_a_gradient_free_loss_within_training_is_no_validation() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        for _ in range(3):
            out = model(torch.randn(8, 6))
            F.cross_entropy(out, torch.randint(0, 3, (8,))).backward()
            with torch.no_grad():
                F.mse_loss(out, torch.zeros_like(out))  # a figure for the log
            optimizer.step()
        monitor.diagnose()
        assert len(monitor.history.series("val_loss")[0]) == 0


def test_validation_keeps_to_the_kind_of_the_training_loss() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        train(model, optimizer, 3)
        model.eval()
        with torch.no_grad():
            out, y = model(torch.randn(8, 6)), torch.randint(0, 3, (8,))
            F.mse_loss(out, torch.zeros_like(out))
            expected = F.cross_entropy(out, y).item()
        monitor.diagnose()
        assert monitor.history.series("val_loss")[1].tolist() == pytest.approx([expected])


def test_explicit_validation_loss_wins() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        for epoch in range(3):
            train(model, optimizer, 2)
            validate(model, [8, 8])
            monitor.observe(val_loss=float(epoch))
        monitor.diagnose()
        assert monitor.history.series("val_loss")[0].tolist() == [2, 4, 6]
        assert monitor.history.series("val_loss")[1].tolist() == [0, 1, 2]


# What the loss is. Each call gets the model's output [8, 3] and returns a loss of the kind.

CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
VALUES = torch.linspace(-1, 1, 24).reshape(8, 3)
ONES = (VALUES > 0).float()
KINDS: dict[str, tuple[str, Callable[[Tensor], Tensor], int]] = {
    "cross_entropy": ("cross-entropy", lambda out: F.cross_entropy(out, CLASSES), 3),
    "CrossEntropyLoss": ("cross-entropy", lambda out: nn.CrossEntropyLoss(reduction="sum")(out, CLASSES), 3),
    "smoothed": ("cross-entropy", lambda out: F.cross_entropy(out, CLASSES, label_smoothing=0.1), 3),
    "accumulated": ("cross-entropy", lambda out: F.cross_entropy(out, CLASSES) / 4, 3),
    "per sample": ("cross-entropy", lambda out: F.cross_entropy(out, CLASSES, reduction="none").mean(), 3),
    "nll of log_softmax": ("cross-entropy", lambda out: F.nll_loss(F.log_softmax(out, 1), CLASSES), 3),
    "nll of log": ("nll", lambda out: F.nll_loss(out.softmax(1).log(), CLASSES), 3),
    "bce": ("binary-cross-entropy", lambda out: F.binary_cross_entropy(out.sigmoid(), ONES), 0),
    "bce with logits": (
        "binary-cross-entropy-with-logits",
        lambda out: nn.BCEWithLogitsLoss()(out, ONES),
        0,
    ),
    "mse": ("mse", lambda out: F.mse_loss(out, VALUES), 0),
    "l1": ("l1", lambda out: nn.L1Loss()(out, VALUES), 0),
    "smooth l1": ("smooth-l1", lambda out: F.smooth_l1_loss(out, VALUES), 0),
    "huber": ("smooth-l1", lambda out: F.huber_loss(out, VALUES), 0),
    "kl": ("kl-div", lambda out: F.kl_div(F.log_softmax(out, 1), VALUES.softmax(1), reduction="batchmean"), 0),
    "mse by hand": ("mse", lambda out: ((out - VALUES) ** 2).mean(), 0),
    "mse by hand and weight": ("mse", lambda out: 0.5 * (out - VALUES).square().sum(), 0),
    "l1 by hand": ("l1", lambda out: (out - VALUES).abs().mean(), 0),
    "cross entropy by hand": (
        "cross-entropy",
        lambda out: -F.log_softmax(out, 1)[torch.arange(8), CLASSES].mean(),
        0,
    ),
    "nll by hand": ("nll", lambda out: -out.softmax(1)[torch.arange(8), CLASSES].log().mean(), 0),
    "unknown": ("", lambda out: out.exp().mean(), 0),
}


def facts_of(model: nn.Module, loss_of: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Facts, History]:
    with silent(model) as monitor:
        loss_of(model(x)).backward()
        torch.optim.SGD(model.parameters(), 1e-3).step()
        assert [skipped for skipped in monitor.diagnose().skipped if not skipped.rule] == []
        return monitor.history.facts, monitor.history


@pytest.mark.parametrize(("kind", "loss_of", "classes"), KINDS.values(), ids=KINDS)
def test_kind_of_loss(kind: str, loss_of: Callable[[Tensor], Tensor], classes: int) -> None:
    facts, history = facts_of(mlp(), loss_of, torch.randn(8, 6))
    assert facts.loss.kind == kind
    assert facts.loss.classes == classes
    assert not facts.loss.broadcast
    assert (facts.input_floating, facts.batch) == (True, 8)
    assert len(history.series("loss")[0]) == 1


def test_constant_losses() -> None:
    """The loss of the best constant prediction, against its formula."""
    shares = torch.bincount(CLASSES) / 8
    entropy = -(shares * shares.log()).sum()
    p = ONES.mean(0)
    binary = F.binary_cross_entropy(p.expand(8, 3), ONES)
    variance = VALUES.var(0).mean()
    for name, expected in {
        "cross_entropy": entropy,
        "CrossEntropyLoss": 8 * entropy,
        "accumulated": entropy / 4,
        "nll of log": entropy,
        "bce": binary,
        "bce with logits": binary,
        "mse": variance,
    }.items():
        _, history = facts_of(mlp(), KINDS[name][1], torch.randn(8, 6))
        assert history.latest("constant_loss")[""] == pytest.approx(float(expected), rel=1e-4), name


def test_broadcast_targets_are_seen() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.warns(UserWarning, match="target size"):
        facts, _ = facts_of(model, lambda out: F.mse_loss(out, torch.randn(8)), torch.randn(8, 6))
    assert facts.loss.broadcast


# What the model is.


class Branches(nn.Module):
    """Functions in place of modules, a residual path, an unused layer, a frozen one, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(8, 3)
        self.embedding = nn.Embedding(10, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.first = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.inner = nn.Linear(8, 8)
        self.free = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(self.frozen(self.embedding(x)))) + self.free
        x = x + F.gelu(self.inner(self.norm(x)))
        out: Tensor = self.head(x)
        return out


def test_facts_of_a_model() -> None:
    facts, history = facts_of(Branches(), KINDS["cross_entropy"][1], torch.randint(0, 10, (8,)))
    assert facts.model == "Branches"
    assert (facts.input_floating, facts.batch) == (False, 8)
    assert [layer.name for layer in facts.layers if layer.called] == [
        "embedding", "frozen", "first", "norm", "inner", "head", "",
    ]  # fmt: skip
    assert [layer.name for layer in facts.layers if not layer.called] == ["unused"]
    kinds = {layer.name: (layer.kind, layer.nonlinearity, layer.inputs, layer.residual) for layer in facts.layers}
    assert kinds["embedding"][:3] == ("embedding", "identity", ())
    assert kinds["frozen"][:3] == ("linear", "identity", ("embedding",))
    assert kinds["first"][:3] == ("linear", "tanh", ("frozen",))
    assert kinds["norm"][:3] == ("norm", "identity", ("first",))
    assert kinds["inner"] == ("linear", "gelu", ("norm",), True)
    assert kinds["head"][0] == "linear"
    assert set(kinds["head"][2]) == {"first", "inner"}
    parameters = {p.name: (p.role, p.trainable, p.connected, p.group) for p in facts.parameters}
    assert parameters["unused.weight"] == ("weight", True, False, 0)
    assert parameters["frozen.weight"] == ("weight", False, False, 0)
    assert parameters["first.weight"] == ("weight", True, True, 0)
    assert parameters["first.bias"] == ("bias", True, True, 0)
    assert parameters["embedding.weight"] == ("embedding", True, True, 0)
    assert parameters["norm.weight"] == ("norm", True, True, 0)
    assert parameters["free"] == ("other", True, True, 0)
    assert "unused" not in history.latest("activation_rms")
    assert history.latest("gradient_missing")["unused.weight"] == 1
    assert history.latest("gradient_missing")["first.weight"] == 0
    assert "frozen.weight" not in history.latest("gradient_missing")


class Doubled(nn.Module):
    """One layer used twice, and another tied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.shared.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.tied(F.relu(self.shared(F.relu(self.shared(x))))))
        return out


def test_facts_of_shared_and_tied_layers() -> None:
    facts, _ = facts_of(Doubled(), KINDS["mse"][1], torch.randn(8, 6))
    assert [layer.name for layer in facts.layers] == ["shared", "tied", "head"]
    assert [p.name for p in facts.parameters] == [
        "shared.weight",
        "shared.bias",
        "tied.bias",
        "head.weight",
        "head.bias",
    ]
    assert all(p.connected for p in facts.parameters)
    assert facts.layer("shared").nonlinearity == "relu"
    assert facts.layer("head").inputs == ("tied",)


MODULES: dict[str, tuple[nn.Module, str, str, tuple[int, int, int]]] = {
    "Linear": (nn.Linear(6, 3), "linear", "weight", (6, 3, 3)),
    "Conv2d": (nn.Conv2d(4, 8, 3, groups=2), "conv", "weight", (18, 36, 8)),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 8, 4, stride=2), "conv", "weight", (16, 128, 8)),
    "LSTM": (nn.LSTM(6, 5), "recurrent", "weight", (6, 5, 5)),
    "GRUCell": (nn.GRUCell(6, 5), "recurrent", "weight", (6, 5, 5)),
    "MultiheadAttention": (nn.MultiheadAttention(8, 2), "attention", "weight", (8, 8, 8)),
    "Embedding": (nn.Embedding(9, 4), "embedding", "embedding", (0, 0, 4)),
    "BatchNorm1d": (nn.BatchNorm1d(7), "norm", "norm", (0, 0, 7)),
    "RMSNorm": (nn.RMSNorm(7), "norm", "norm", (0, 0, 7)),
    "PReLU": (nn.PReLU(), "activation", "other", (0, 0, 1)),
}


@pytest.mark.parametrize(("module", "kind", "role", "fans"), MODULES.values(), ids=MODULES)
def test_kinds_of_layers(module: nn.Module, kind: str, role: str, fans: tuple[int, int, int]) -> None:
    with silent(nn.Sequential(module)) as monitor:
        (layer, *_) = monitor.history.facts.layers
        assert (layer.name, layer.kind, (layer.fan_in, layer.fan_out, layer.units)) == ("0", kind, fans)
        assert layer.type == type(module).__name__
        assert monitor.history.facts.parameters[0].role == role


ACTIVATIONS: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
    "relu": (nn.ReLU(), F.relu),
    "leaky_relu": (nn.LeakyReLU(), F.leaky_relu),
    "elu": (nn.ELU(), F.elu),
    "gelu": (nn.GELU(), F.gelu),
    "silu": (nn.SiLU(), F.silu),
    "mish": (nn.Mish(), F.mish),
    "hardtanh": (nn.Hardtanh(), F.hardtanh),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "tanh": (nn.Tanh(), Tensor.tanh),
    "softplus": (nn.Softplus(), F.softplus),
    "hardswish": (nn.Hardswish(), F.hardswish),
    "hardsigmoid": (nn.Hardsigmoid(), F.hardsigmoid),
}


class Functional(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.function(self.first(x)))
        return out


@pytest.mark.parametrize(("name", "module", "function"), [(n, *a) for n, a in ACTIVATIONS.items()], ids=ACTIVATIONS)
def test_nonlinearities(name: str, module: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    sequential = nn.Sequential(nn.Linear(6, 8), module, nn.Linear(8, 3))
    facts, _ = facts_of(sequential, KINDS["mse"][1], torch.randn(8, 6))
    assert facts.layer("0").nonlinearity == name
    assert (facts.layer("1").kind, facts.layer("1").function) == ("activation", name)
    assert facts.layer("2").inputs == ("1",)
    facts, _ = facts_of(Functional(function), KINDS["mse"][1], torch.randn(8, 6))
    assert facts.layer("first").nonlinearity == name
    assert facts.layer("last").inputs == ("first",)


def test_lazy_layers() -> None:
    """They have no shape before the first pass."""
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"'0.weight' is lazy.*pass one batch"):
        silent(model)
    model(torch.randn(8, 6))
    with silent(model) as monitor:
        seen = train(model, torch.optim.SGD(model.parameters(), 0.1), 3)
        assert losses(monitor) == pytest.approx(seen)


def test_history_and_findings_can_be_read_after_closing() -> None:
    model = mlp()
    monitor = silent(model)
    seen = train(model, torch.optim.SGD(model.parameters(), 0.1), 5)
    monitor.close()
    train(model, torch.optim.SGD(model.parameters(), 0.1), 5)
    assert monitor.step == 5
    assert losses(monitor) == pytest.approx(seen)
    assert 0 < monitor.overhead <= 1
    assert isinstance(monitor.findings, tuple)


def test_models_trained_in_threads_of_their_own() -> None:
    models = [mlp() for _ in range(3)]
    monitors = [silent(model) for model in models]
    seen: dict[int, list[float]] = {}

    def work(index: int) -> None:
        seen[index] = train(models[index], torch.optim.SGD(models[index].parameters(), 0.1), 50)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, monitor in enumerate(monitors):
        assert monitor.step == 50
        assert losses(monitor) == pytest.approx(seen[index])
        assert [skipped for skipped in monitor.diagnose().skipped if not skipped.rule] == []
        monitor.close()


def test_losses_of_one_backward_pass_are_summed() -> None:
    model, expected = mlp(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            out = model(torch.randn(8, 6))
            parts = [F.cross_entropy(out, torch.randint(0, 3, (8,))), out.square().mean()]
            expected.append(sum(part.item() for part in parts))
            torch.autograd.backward(parts)
            optimizer.step()
        monitor.diagnose()
        assert losses(monitor) == pytest.approx(expected)


@pytest.mark.parametrize("way", ["not a scalar", "autograd.grad"])
def test_backward_passes_out_of_sight(way: str) -> None:
    """Their losses are not known; everything else is."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            out = model(torch.randn(8, 6))
            loss = F.cross_entropy(out, torch.randint(0, 3, (8,)))
            if way == "not a scalar":
                out.backward(torch.ones_like(out))
            else:
                parameters = list(model.parameters())
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.grad = gradient
            optimizer.step()
        assert [skipped for skipped in monitor.diagnose().skipped if not skipped.rule] == []
        assert monitor.step == 5
        assert len(monitor.history.table("activation_rms")) == 5
        assert len(monitor.history.table("gradient_rms")) == 5
        assert losses(monitor) == []


class WritesThroughData(torch.optim.Optimizer):
    """As many older optimizers do: no version counter tells of it."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad.data, alpha=-group["lr"])


def test_updates_through_data_are_those_of_one_step() -> None:
    ratios = []
    for kind in (torch.optim.SGD, WritesThroughData):
        torch.manual_seed(0)
        model = mlp()
        with watch(model, reporters=[], every=5) as monitor:
            train(model, kind(model.parameters(), lr=0.05), 21)
        ratios.append(monitor.history.table("update_ratio").values)
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5, nan_ok=True)


def test_clipping_through_data_is_seen() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(8, 6)), torch.randint(0, 3, (8,))).backward()
            for p in model.parameters():
                assert p.grad is not None
                p.grad.data.clamp_(-1e-3, 1e-3)
            optimizer.step()
        before, used = (monitor.history.series(name)[1] for name in ("gradient_norm", "clipped_gradient_norm"))
    assert (used < 0.1 * before).all()


def test_a_model_whose_methods_are_called_is_sampled_at_every_step() -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 3), nn.Linear(3, 4)

    model = Autoencoder()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model) as monitor:
        for _ in range(4):
            model.decoder(torch.relu(model.encoder(torch.randn(8, 4)))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    table = monitor.history.table("activation_rms")
    assert table.columns == ("encoder", "decoder")
    assert all(len(monitor.history.series("activation_rms", name)[0]) == 4 for name in table.columns)
