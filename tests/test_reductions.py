"""Sums of samples against NumPy's, where they fit into one block and where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from netdoctor.probes import reductions
from netdoctor.probes.reductions import reduce_gradients, reduce_layers, reduce_parameters

AXES = (-2, -1)  # rows and units


@pytest.fixture(params=[1, 2**14, reductions.BLOCK], ids="block of {}".format, autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions, "BLOCK", request.param)


def samples(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = (
        torch.randn(shape, generator=generator)
        * 10.0 ** torch.randint(-20, 19, (*shape[:-2], 1, 1), generator=generator)
        + 3
    )
    return values * (torch.rand(shape, generator=generator) < 0.8)


def exact(values: Tensor) -> NDArray[np.float64]:
    return values.double().numpy()


@pytest.mark.parametrize("of_units", [False, True])
@pytest.mark.parametrize("slots", [None, [], [0, 3, 4, 36]], ids=["all", "none", "some"])
def test_sums_of_layers(slots: list[int] | None, of_units: bool) -> None:
    values = samples(3, 37, 16, 8)
    bounds = torch.tensor([3, 4]), torch.tensor([1.0, 1e3])
    found = reduce_layers(values, bounds, of_units, slots).numpy()
    x = exact(values)
    units = x.sum(-2)
    wanted = [x.sum(AXES), (x**2).sum(AXES), (units**2).sum(-1), np.abs(x).max(AXES), np.full((3, 37), np.nan)]
    wanted[4][:, bounds[0]] = (np.abs(x[:, bounds[0]]) > bounds[1].numpy()[:, None, None]).sum(AXES)
    expected = np.concatenate([np.stack(wanted, -1), x.max(-2), *([units] if of_units else [])], -1)
    chosen = range(37) if slots is None else slots
    powers = np.array([1, 2, 2, 1, 0] + [1] * (found.shape[-1] - 5))
    scale = np.abs(x).max(AXES)[..., None] ** powers
    np.testing.assert_allclose((found / scale)[:, chosen], (expected / scale)[:, chosen], rtol=1e-9, atol=1e-12)
    left = np.setdiff1d(np.arange(37), [*chosen, 3, 4])
    assert not found[:, left].any()


def test_sums_of_gradients() -> None:
    values = samples(2, 50, 8, 8)
    found = reduce_gradients(values, range(0, 50, 2)).numpy()
    x = exact(values)
    np.testing.assert_allclose(found[:, ::2, 0], (x**2).sum(AXES)[:, ::2], rtol=1e-9)
    np.testing.assert_array_equal(found[:, ::2, 1], (x != 0).sum(AXES)[:, ::2])
    assert not found[:, 1::2].any()


@pytest.mark.parametrize("of_rows", [False, True])
@pytest.mark.parametrize("vectors", [0, 11, 30])
def test_sums_of_parameters(vectors: int, of_rows: bool) -> None:
    count, steps = 30, 3
    values = samples(1 + steps, 4, count, 8, 16)
    narrow = torch.arange(count) < vectors
    values[:, :, narrow, 1:] = 0
    values[:, 1, ::2] = values[:, 0, ::2]  # a step that changes nothing
    rounded = torch.arange(count) % 3 == 0
    found = reduce_parameters(values, rounded, of_rows, narrow).numpy()
    x = exact(values)
    before, after, gradient, used = x[1:].transpose(1, 0, 2, 3, 4)
    update, previous, rows = after - before, x[:-1, 3], before.sum(-1)
    squares = [(each**2).sum(AXES) for each in (before, update, gradient, used, previous)]
    products = (used * previous).sum(AXES), (used * update).sum(AXES)
    counts = (used != 0).sum(AXES), ((used != 0) & (update == 0)).sum(AXES)
    halves = [np.where(rounded.numpy(), each, np.nan) for each in counts]
    wanted = np.stack([*squares, products[0], rows.sum(-1), (rows**2).sum(-1), products[1], *halves], 1)
    expected = np.concatenate([wanted, *([rows.mT] if of_rows else [])], 1)
    scale = np.abs(x).max(AXES).max((0, 1))
    powers = np.array([2] * 6 + [1, 2, 2, 0, 0] + [1] * (found.shape[1] - 11))[:, None]
    np.testing.assert_allclose(found / scale**powers, expected / scale**powers, rtol=1e-9, atol=1e-12)
