"""What a layer returns, in whatever form, is sampled as it was then, kept for a moment at most, and never changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.twins import faults, mlp, same, silent


class InPlace(nn.Module):
    """Writes over the outputs of its layers, as the residual nets of torchvision do; or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.relu = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y = self.second(x)
        if self.in_place:
            y += x
        else:
            y = y + x
        out: Tensor = self.head(self.relu(y))
        return out


def step(model: nn.Module, loss_of: Callable[[Any], Tensor], *args: Any, **kwargs: Any) -> None:
    loss_of(model(*args, **kwargs)).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.zero_grad()


def squares(output: Any) -> Tensor:
    loss: Tensor = output.square().mean()
    return loss


def train(model: nn.Module, steps: int, optimizer: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        squares(model(torch.randn(16, 6))).backward()
        optimizer.step()
    return optimizer


def test_in_place_operations_on_hooked_outputs() -> None:
    """Pitfall 1: full backward hooks raise; 4: a kept reference would show what came later."""
    tables = []
    for in_place in (False, True):
        torch.manual_seed(0)
        with silent(model := InPlace(in_place), every=1) as monitor:
            train(model, 4)
            assert faults(monitor) == []
            tables.append({name: monitor.history.table(name).values for name in monitor.history.statistics})
            assert (monitor.history.latest("activation_mean")["first"]) < 0.5  # before the ReLU, not after it
    assert set(tables[0]) == set(tables[1])
    for name, values in tables[0].items():
        assert values == pytest.approx(tables[1][name], nan_ok=True), name


def test_what_is_written_to_for_once_is_left_out_and_never_read_late() -> None:
    torch.manual_seed(0)
    tables = []
    for changes in (False, True):
        torch.manual_seed(0)
        with silent(model := InPlace(False), every=1) as monitor:
            optimizer = train(model, 3)
            model.in_place = model.relu.inplace = changes
            train(model, 3, optimizer)
            assert faults(monitor) == []
        tables.append(monitor.history.table("activation_mean"))
    lost = {}
    for name in tables[0].place:
        usual, changed = (table.values[:, table.place[name]] for table in tables)
        seen = ~np.isnan(changed)
        lost[name] = int((~seen).sum())
        assert changed[seen] == pytest.approx(usual[seen]), name
    assert {name for name, count in lost.items() if count} == {"first", "second"}  # they had waited till then
    assert set(lost.values()) == {0, 1}


@dataclass
class Output:
    label: str
    logits: Tensor


class Named(NamedTuple):
    mask: Tensor
    logits: Tensor


class Wrapping(nn.Module):
    """A layer that returns its result inside of something."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))
        self.wrap = wrap

    def forward(self, *, x: Tensor) -> Any:
        return self.wrap(x @ self.weight)


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "dict": (lambda out: {"logits": out}, lambda given: given["logits"]),
    "dataclass": (lambda out: Output("", out), lambda given: given.logits),
    "named tuple": (lambda out: Named(out > 0, out), lambda given: given.logits),
    "nested": (lambda out: ([{"deep": (out.argmax(1), out)}],), lambda given: given[0][0]["deep"][1]),
}


@pytest.mark.parametrize(("wrap", "take"), OUTPUTS.values(), ids=OUTPUTS)
def test_nested_outputs_and_inputs_by_keyword(wrap: Callable[[Tensor], Any], take: Callable[[Any], Tensor]) -> None:
    """Pitfalls 2 and 33: dicts, dataclasses, tuples; inputs that are no positional arguments."""
    model, x = Wrapping(wrap), torch.randn(16, 6)
    expected = float((x @ model.weight.detach()).square().mean().sqrt())
    with silent(model, every=1) as monitor:
        step(model, lambda given: squares(take(given)), x=x)
        assert faults(monitor) == []
        assert monitor.history.latest("activation_rms")[""] == pytest.approx(expected, rel=1e-5)


def test_outputs_of_recurrent_layers() -> None:
    """Pitfall 33: an LSTM returns its outputs and its states; the outputs count, and their gradient."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.seen: Tensor = self.lstm(x)[0]
            out: Tensor = self.head(self.seen[-1])
            return out

    with silent(model := Last(), every=1) as monitor:
        step(model, squares, torch.randn(3, 8, 4))
        latest = monitor.history.latest
        assert latest("activation_rms")["lstm"] == pytest.approx(
            float(model.seen.detach().square().mean().sqrt()), rel=1e-5
        )
        assert latest("activation_gradient_rms")["lstm"] > 0


@pytest.mark.parametrize("watched", [False, True])
def test_second_derivatives(watched: bool) -> None:
    """Pitfall 3: gradients of gradients are those of an unwatched model, and nothing stays alive."""
    results = []
    for watching in (False, watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        monitor = silent(model, every=1) if watching else None
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        kept: weakref.WeakSet[Tensor] = weakref.WeakSet()
        for _ in range(4):
            x = torch.randn(8, 6, requires_grad=True)
            (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            loss = model(x).square().mean() + (slope.norm(dim=1) - 1).square().mean()  # as WGAN-GP's penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kept.add(x)
            del x, slope, loss
        assert len(kept) == 0  # without a garbage collection
        if monitor is not None:
            assert faults(monitor) == []
            monitor.close()
        results.append([p.detach() for p in model.parameters()])
    assert same(*results)


def test_outputs_are_not_kept_alive() -> None:
    """Pitfall 5: neither an output nor the graph behind it outlives its step."""
    kept: weakref.WeakSet[Tensor] = weakref.WeakSet()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model, every=1):
        for _ in range(3):
            x = torch.randn(8, 12)
            out = model(x)
            kept.update((x, out))
            squares(out).backward()
            del x, out
            assert len(kept) <= 1  # what the last graph saved
            optimizer.step()
            assert len(kept) == 0


def test_many_passes_with_gradients_in_one_step() -> None:
    """Pitfall 5: a rollout, or an evaluation that forgot no_grad, does not pile up its graphs."""
    kept: weakref.WeakSet[Tensor] = weakref.WeakSet()
    with silent(model := mlp(), every=1) as monitor:
        for _ in range(50):
            x = torch.randn(8, 12)
            kept.add(x)
            model(x)
        del x
        assert len(kept) <= 4
        step(model, squares, torch.randn(8, 12))
        assert len(kept) == 0
        assert len(monitor.history.table("activation_rms")) == 1


def test_several_passes_in_one_step() -> None:
    """A siamese net: the last pass counts, and each layer of it once."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    first, second = torch.randn(16, 6), 10 * torch.randn(16, 6)
    with silent(model, every=1) as monitor:
        loss = F.mse_loss(model(first), model(second))
        loss.backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert monitor.step == 1
        assert monitor.history.latest("input_rms")["0"] == pytest.approx(float(second.square().mean().sqrt()), rel=1e-5)
        assert monitor.history.series("loss")[1].tolist() == pytest.approx([loss.item()])


def test_hooks_return_nothing() -> None:
    """Pitfall 37: what a forward hook returns would replace the output, what a tensor hook returns the gradient."""
    with silent(model := mlp(), every=1):
        out = model(torch.randn(8, 12))
        for module in model.modules():
            for key, hook in module._forward_hooks.items():
                keywords: tuple[dict[str, object], ...] = ({},) if key in module._forward_hooks_with_kwargs else ()
                assert hook(module, (), *keywords, out) is None
        model(torch.randn(8, 12)).sum().backward()


def test_calls_of_forward_itself() -> None:
    """Pitfall 34: they bypass every hook; what is not seen is said."""

    class Bypassing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.scales = nn.ParameterList([torch.ones(8)])  # can only be used as it is

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.hidden.forward(F.relu(self.first(x)) * self.scales[0]))
            return out

    model = Bypassing()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with silent(model, every=1) as monitor:
        for _ in range(4):
            squares(model(torch.randn(8, 6))).backward()
            optimizer.step()
        (told,) = faults(monitor)
        assert told.startswith("activations of hidden are not seen")
        assert "forward()" in told
        assert monitor.history.latest("gradient_rms")["hidden.weight"] > 0
