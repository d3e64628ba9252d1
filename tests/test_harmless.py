"""Watching changes nothing: not the numbers, not the errors, not what is left behind."""

from __future__ import annotations

import copy
import gc
import importlib
import io
import logging
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor import History, watch
from netdoctor.probes import losses
from netdoctor.probes.sampling import Samples
from netdoctor.reporters import Report
from netdoctor.rules.base import rule
from tests.twins import MODELS, Rich, Sequence, cnn, each_watch, mlp, nothing_left, same, silent, steps, train


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


@each_watch
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_training_is_bit_identical(make: Callable[[], nn.Module], watching: Callable[..., Any]) -> None:
    monitors: list[netdoctor.Monitor] = []

    def watched(model: nn.Module) -> netdoctor.Monitor:
        monitors.append(watching(model))
        return monitors[-1]

    assert same(train(make), train(make, watched))
    assert monitors[0].step == 20
    assert len(monitors[0].history.table("activation_rms")) == 20
    assert monitors[0].diagnose().skipped == tuple(s for s in monitors[0].diagnose().skipped if s.rule)  # no faults


def test_random_numbers_are_left_alone() -> None:
    model = mlp()
    state = torch.get_rng_state()
    monitor = silent(model, every=1)
    monitor.diagnose()
    monitor.close()
    assert torch.equal(state, torch.get_rng_state())


class Gan:
    """Generator and discriminator with an optimizer each; `watched` makes the monitors."""

    def __init__(self, watched: Callable[[Any, Any], list[Any]] | None) -> None:
        torch.manual_seed(0)
        g = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))
        d = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        self.whole = nn.ModuleList([g, d])
        self.monitors = watched(self.whole, g) if watched else []
        to_g, to_d = (torch.optim.Adam(m.parameters(), 1e-3) for m in (g, d))
        ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
        self.seen: list[Tensor] = []
        for _ in range(20):
            real, fake = torch.randn(32, 6) + 2, g(torch.randn(32, 4))
            loss_d = F.binary_cross_entropy_with_logits(d(real), ones)
            loss_d = loss_d + F.binary_cross_entropy_with_logits(d(fake.detach()), zeros)
            to_d.zero_grad()
            loss_d.backward()
            to_d.step()
            loss_g = F.binary_cross_entropy_with_logits(d(fake), ones)
            to_g.zero_grad()
            loss_g.backward()
            to_g.step()
            self.seen += [loss_d.detach(), loss_g.detach()]
        self.seen += [p.detach() for p in self.whole.parameters()]
        for monitor in self.monitors:
            monitor.close()


def test_gan_with_one_monitor() -> None:
    watched = Gan(lambda whole, g: [silent(whole, every=1)])
    assert same(Gan(None).seen, watched.seen)
    (monitor,) = watched.monitors
    assert monitor.step == 20  # of both optimizers together
    assert monitor.history.facts.several_losses
    assert len(monitor.history.table("loss").columns) == 2


def test_gan_with_two_monitors() -> None:
    watched = Gan(lambda whole, g: [silent(whole[1], every=1), silent(g, every=1)])
    assert same(Gan(None).seen, watched.seen)
    for monitor in watched.monitors:
        assert monitor.step == 20
        assert {group.optimizer for group in monitor.history.facts.groups} == {"Adam"}
        assert np_close(monitor.history.series("update_rms", "0.weight")[1].max(), 1e-3)


def np_close(value: Any, expected: float) -> bool:
    return abs(float(value) - expected) <= 0.2 * expected


@each_watch
def test_closure_of_lbfgs(watching: Callable[..., Any]) -> None:
    def run(watched: Callable[..., Any] | None) -> tuple[list[Tensor], Any]:
        torch.manual_seed(0)
        x, y = torch.randn(32, 12), torch.randint(0, 4, (32,))
        model = mlp()
        monitor = watched(model) if watched else None
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        results = [optimizer.step(closure).detach() for _ in range(5)]
        if monitor is not None:
            monitor.close()
        return [*results, *(p.detach() for p in model.parameters())], monitor

    plain, (watched, monitor) = run(None)[0], run(watching)
    assert same(plain, watched)
    assert monitor.step == 5
    _, recorded = monitor.history.series("loss")
    assert recorded.tolist() == pytest.approx([loss.item() for loss in watched[:5]])


# What is installed, and that it goes.


def test_hooks_of_the_user_stay() -> None:
    model = mlp()
    calls = []
    model[0].register_forward_hook(lambda *given: calls.append("before"))
    monitor = silent(model)
    model[0].register_forward_hook(lambda *given: calls.append("after"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.register_step_post_hook(lambda *given: calls.append("step"))
    steps(model, optimizer, 1)
    monitor.close()
    calls.clear()
    steps(model, optimizer, 1)
    assert calls == ["before", "after", "before", "after", "step"]
    assert [len(module._forward_hooks) for module in model.modules()] == [0, 2, 0, 0, 0, 0]


PATCHED = [(torch.autograd, "backward"), *((F, name) for name in (*losses.LOSS_FUNCTIONS, *losses.DROPPING))]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_patches_go_with_the_last_monitor(order: tuple[int, int]) -> None:
    originals = [getattr(owner, name) for owner, name in PATCHED]
    models = [mlp(), mlp()]
    monitors = [silent(model) for model in models]
    for index in order:
        assert all(getattr(o, n) is not f for (o, n), f in zip(PATCHED, originals, strict=True))
        monitors[index].close()
        assert all(not module._forward_hooks for module in models[index].modules())
    assert [getattr(owner, name) for owner, name in PATCHED] == originals
    steps_of_torch = importlib.import_module("torch.optim.optimizer")
    assert not steps_of_torch._global_optimizer_pre_hooks
    assert not steps_of_torch._global_optimizer_post_hooks


class Dropper(nn.Module):
    """Drops in all ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(12, 8), nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(F.dropout(self.first(x), 0.5, self.training))[:, None]
        x = F.scaled_dot_product_attention(x, x, x, dropout_p=0.2)
        out: Tensor = self.last(F.alpha_dropout(x, 0.1, training=self.training))[:, 0]
        return out


def test_functions_that_drop_stay_what_they_are() -> None:
    def run(watched: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Dropper()
        monitor = silent(model) if watched else None
        told = steps(model, torch.optim.SGD(model.parameters(), 0.1), 3)
        model.eval()
        with torch.no_grad():
            told.append(model(torch.randn(4, 12)))
        if monitor is not None:
            assert torch.jit.script(Dropper())(torch.ones(4, 12)).shape == (4, 4)
            monitor.close()
        return told

    assert all(map(torch.equal, run(True), run(False)))


def test_patch_over_ours_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.autograd.backward
    monitor = silent(mlp())
    ours = torch.autograd.backward
    calls = []

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return ours(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "backward", theirs)
    monitor.close()
    assert torch.autograd.backward is theirs
    model = mlp()
    steps(model, torch.optim.SGD(model.parameters(), 0.1), 2)
    assert calls == [1, 1]
    again = silent(model)
    steps(model, torch.optim.SGD(model.parameters(), 0.1), 3)
    again.close()
    assert len(again.history.series("loss")[0]) == 3
    assert torch.autograd.backward is theirs
    torch.autograd.backward = original


@pytest.mark.parametrize("make", [mlp, cnn, Rich, Sequence], ids=["mlp", "cnn", "rich", "lstm"])
def test_copies_are_not_watched(make: Callable[[], nn.Module]) -> None:
    plain = make()
    keys, text = list(plain.state_dict()), repr(plain)
    buffer = io.BytesIO()
    with silent(plain, every=1) as monitor:
        steps(plain, torch.optim.SGD(plain.parameters(), 0.1), 2)
        assert list(plain.state_dict()) == keys
        assert repr(plain) == text
        torch.save(plain, buffer)
        buffer.seek(0)
        copies = [copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), torch.load(buffer, weights_only=False)]
        recorded = {name: len(monitor.history.table(name)) for name in monitor.history.statistics}
        for other in copies:
            assert same([*plain.state_dict().values()], [*other.state_dict().values()])
            steps(other, torch.optim.SGD(other.parameters(), 0.1), 3)
        assert monitor.step == 2
        assert {name: len(monitor.history.table(name)) for name in monitor.history.statistics} == recorded
        with silent(copies[0], every=1) as second:  # but they can be
            steps(copies[0], torch.optim.SGD(copies[0].parameters(), 0.1), 3)
        assert second is not monitor
        assert (second.step, monitor.step) == (3, 2)


def test_weights_can_be_loaded_and_moved() -> None:
    model = mlp()
    with silent(model, every=1) as monitor:
        optimizer = torch.optim.Adam(model.parameters())
        steps(model, optimizer, 2)
        model.load_state_dict(mlp().state_dict())
        model.double().float()
        steps(model, optimizer, 2)
    assert monitor.step == 4
    assert len(monitor.history.table("update_ratio")) == 4


# Faults of netdoctor.


@rule(netdoctor.Severity.WARNING)
def broken(history: History) -> Iterator[netdoctor.Evidence]:
    """Always fails."""
    if history.step >= 0:
        raise ZeroDivisionError("a rule's fault")
    yield netdoctor.Evidence("")


class BrokenReporter:
    def report(self, report: Any) -> None:
        raise OSError("disk full")

    def close(self, report: Any) -> None:
        raise OSError("disk full")


def fault(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("a fault of netdoctor")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Samples, "store"),
        (Samples, "pair"),
        (Samples, "clear"),
        (History, "record_rows"),
        ("netdoctor.recorder.ActivationProbe", "reduce"),
        ("netdoctor.recorder.ParameterProbe", "reduce"),
        ("netdoctor.probes.readings.LayerReadings", "decode"),
        ("netdoctor.probes.scalars.Scalars", "flush"),
        ("netdoctor.recorder.ParameterProbe", "see_accumulated"),
        ("netdoctor.probes.waiting.Waiting", "take"),
        ("netdoctor.probes.waiting.Waiting", "release"),
        ("netdoctor.probes.waiting.Waiting", "learn"),
        ("netdoctor.structure", "trace"),
        ("netdoctor.recorder", "loss_path"),
        ("netdoctor.probes.curves.TrainingLosses", "add"),
        ("netdoctor.probes.curves.TrainingLosses", "after_step"),
        ("netdoctor.probes.curves.ValidationLosses", "add"),
        ("netdoctor.probes.curves.ValidationLosses", "settle"),
        ("netdoctor.probes.optimizers.Holdings", "of"),
        ("netdoctor.probes.schedule.Schedule", "tick"),
        ("netdoctor.monitor.Casebook", "update"),
        ("netdoctor.monitor", "diagnose"),
    ],
)
def test_faults_inside_are_told_once(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = train(cnn)
    monitors: list[netdoctor.Monitor] = []

    def watched(model: nn.Module) -> netdoctor.Monitor:
        monitors.append(silent(model, every=1))
        target = f"{owner}.{name}" if isinstance(owner, str) else None
        if target:
            monkeypatch.setattr(target, fault)
        else:
            monkeypatch.setattr(owner, name, fault)
        return monitors[0]

    with caplog.at_level(logging.WARNING, "netdoctor"):
        assert same(plain, train(cnn, watched))
    assert len(caplog.records) in (1, 2)  # a part that failed and, where it shares the fault, the last diagnosis
    assert all(record.name == "netdoctor" and record.exc_info for record in caplog.records)
    monkeypatch.undo()
    told = [skipped.reason for skipped in monitors[0].diagnose().skipped if not skipped.rule]
    assert len(told) == len(caplog.records)
    assert all("RuntimeError: a fault of netdoctor" in reason for reason in told)


@pytest.mark.parametrize("name", ["ActivationProbe.rest", "Holdings.at_work", "Scalars.keep", "Origins.look"])
def test_faults_between_the_samples_are_told(name: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def run(watching: Callable[..., Any] | None = None) -> list[float]:
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        monitor = watching(model) if watching else None
        losses = []
        for step in range(90):
            loss = model(torch.ones(3, 4)).square().mean() * (torch.nan if step == 80 else 1)
            if step == 30 and monitor is not None:
                home = {"ActivationProbe": "activations", "Holdings": "optimizers", "Scalars": "scalars"}
                monkeypatch.setattr(f"netdoctor.probes.{home.get(name.split('.')[0], 'origin')}.{name}", fault)
            loss.backward()
            losses.append(loss.item())
            optimizer.zero_grad() if step == 80 else optimizer.step()
        if monitor is not None:
            monitor.close()
        return losses

    with caplog.at_level(logging.WARNING, "netdoctor"):
        watched = run(lambda model: silent(model, every=29))
    monkeypatch.undo()
    assert np.array_equal(watched, run(), equal_nan=True)
    assert len(caplog.records) >= 1


def test_faulty_rule_is_told(caplog: pytest.LogCaptureFixture) -> None:
    monitors: list[netdoctor.Monitor] = []

    def watched(model: nn.Module) -> netdoctor.Monitor:
        monitors.append(silent(model, rules=["non-finite", broken], every=1))
        return monitors[0]

    assert same(train(mlp), train(mlp, watched))
    reasons = {skipped.rule: skipped.reason for skipped in monitors[0].diagnose().skipped}
    assert reasons["broken"] == "failed: ZeroDivisionError: a rule's fault"
    assert monitors[0].step == 20
    assert len(monitors[0].history.table("activation_rms")) == 20


def test_faulty_reporter_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)  # where the run is kept that the reporter did not take

    @rule(netdoctor.Severity.WARNING)
    def told(history: History) -> Iterator[netdoctor.Evidence]:
        """Always found."""
        yield netdoctor.Evidence("ill")

    monitors: list[netdoctor.Monitor] = []

    def watched(model: nn.Module) -> netdoctor.Monitor:
        monitors.append(watch(model, reporters=[BrokenReporter()], rules=[told]))
        return monitors[0]

    assert same(train(mlp), train(mlp, watched))
    first, lost = caplog.messages
    assert first == "the reporter BrokenReporter failed and will be given its news again: OSError: disk full"
    assert lost.startswith("the reporter BrokenReporter was not told of told and could not be closed")
    assert [finding.rule for finding in monitors[0].findings] == ["told"]
    assert any("disk full" in skipped.reason for skipped in monitors[0].diagnose().skipped)


# Errors of the user.


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_errors_of_the_user_pass_through(kind: type[BaseException]) -> None:
    model = mlp()
    error = kind("mine")

    def train_until_it_fails() -> None:
        with silent(model):
            steps(model, torch.optim.SGD(model.parameters(), 0.1), 3)
            raise error

    with pytest.raises(kind) as caught:
        train_until_it_fails()
    assert caught.value is error
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("where", ["forward", "loss", "backward", "closure"])
def test_errors_within_a_step_keep_their_type(where: str) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            if where == "forward":
                raise LookupError("mine")
            if where == "backward":
                x.register_hook(fail)
            return x

    def fail(*given: Any) -> Any:
        raise LookupError("mine")

    model = Failing()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step() -> None:
        loss = F.cross_entropy(model(torch.randn(8, 12)), torch.full((8,), 9 if where == "loss" else 0))
        loss.backward()
        optimizer.step(fail) if where == "closure" else optimizer.step()

    with silent(model, every=1) as monitor:
        for _ in range(3):
            with pytest.raises(LookupError):
                step()
        where = "nowhere"
        steps(model, optimizer, 3)
        assert len(monitor.history.series("loss")[0]) >= 3
        assert monitor.diagnose().skipped == tuple(s for s in monitor.diagnose().skipped if s.rule)


# Lives of models and monitors.


def test_watching_twice_gives_the_same_monitor() -> None:
    model = mlp()
    first = silent(model)
    assert silent(model, every=3) is first
    assert len(model[0]._forward_hooks) == 1
    first.close()
    first.close()
    with silent(model) as second:
        assert second is not first


def test_a_collected_model_closes_its_monitor() -> None:
    model = mlp()
    monitor = silent(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    steps(model, optimizer, 2)
    gone = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert gone() is None
    assert monitor.closed
    assert monitor.history.step == 2  # it can still be read


def test_a_collected_model_leaves_context_variables_alone() -> None:
    """The collector may run while one is being set: before Python 3.12, setting another one then is a segfault."""
    variable = ContextVar("variable", default=0)

    class Sets:
        def report(self, report: Report) -> None:
            pass

        def close(self, report: Report) -> None:
            variable.set(variable.get() + 1)
            seen.append(variable.get())

    seen: list[int] = []
    model = mlp()
    netdoctor.watch(model, reporters=[Sets()])
    del model
    gc.collect()
    assert seen == [1]
    assert variable.get() == 0


def test_a_notebook_cell_run_again() -> None:
    """The names of the cell are bound anew each time; the old model's monitor goes with it."""
    cell: dict[str, Any] = {}
    monitors = []
    for _ in range(3):
        cell["model"] = mlp()
        cell["monitor"] = silent(cell["model"])
        cell["optimizer"] = torch.optim.SGD(cell["model"].parameters(), 0.1)
        steps(cell["model"], cell["optimizer"], 2)
        monitors.append(cell["monitor"])
        gc.collect()
    assert [monitor.closed for monitor in monitors] == [True, True, False]
    assert len(losses._listeners) == 1
    monitors[-1].close()


def test_a_monitor_that_nobody_holds_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """`netdoctor.watch(model)` without a name for what it returns."""
    model = mlp()
    silent(model)
    gc.collect()
    steps(model, torch.optim.SGD(model.parameters(), 0.1), 3)
    monitor = silent(model)
    assert monitor.step == 3
    monitor.close()


def test_the_model_is_not_kept_alive_by_a_closed_monitor() -> None:
    model = mlp()
    monitor = silent(model, every=1)
    steps(model, torch.optim.SGD(model.parameters(), 0.1), 2)
    monitor.close()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
