"""Who forgets `zero_grad` is told from who accumulates, and from optimizers that clear each their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from netdoctor import watch


def plain(model: nn.Module) -> Iterator[None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    while True:
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        yield


def cleared(model: nn.Module, to_none: bool = True, before: bool = True) -> Iterator[None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    while True:
        if before:
            optimizer.zero_grad(set_to_none=to_none)
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        if not before:
            model.zero_grad(set_to_none=to_none)
        yield


def accumulated(model: nn.Module) -> Iterator[None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    while True:
        for _ in range(3):
            model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def adversaries(model: nn.Module) -> Iterator[None]:
    """Each step leaves gradients in the other one's parameters, as a GAN's does."""
    first, second = (torch.optim.SGD(layer.parameters(), 0.01) for layer in model.children())
    while True:
        for optimizer in (first, second):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
        yield


def moved_to_a_copy(model: nn.Module) -> Iterator[None]:
    """Reptile: only copies go backward, and the model's gradients are set by hand."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    while True:
        learner = copy.deepcopy(model)
        inner = torch.optim.SGD(learner.parameters(), 0.1)
        for _ in range(2):
            inner.zero_grad()
            learner(torch.randn(8, 4)).square().mean().backward()
            inner.step()
        for p, q in zip(model.parameters(), learner.parameters(), strict=True):
            p.grad = p.detach() - q.detach()
        optimizer.step()
        yield


def left(loop: Callable[[nn.Module], Iterator[None]]) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with watch(model, every=1, reporters=[]) as monitor:
        turns = loop(model)
        for _ in range(6):
            next(turns)
    table = monitor.history.table("leftover_gradient")
    found: list[float] = table.values[table.steps > 2].max(1, initial=0).tolist()
    return found


def test_forgetting_leaves_gradients() -> None:
    assert min(left(plain)) > 1e-3


@pytest.mark.parametrize(
    "loop",
    [
        cleared,
        lambda model: cleared(model, to_none=False),
        lambda model: cleared(model, before=False),
        accumulated,
        adversaries,
    ],
    ids=["cleared", "zeroed", "cleared after the step", "accumulated", "adversaries"],
)
def test_clearing_in_any_way_leaves_none(loop: Callable[[nn.Module], Iterator[None]]) -> None:
    found = left(loop)
    assert found
    assert max(found) == 0


def test_passes_of_copies_count_for_nothing() -> None:
    assert not left(moved_to_a_copy)
