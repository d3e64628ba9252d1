"""The size of a packet, and the losses in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import netdoctor
from netdoctor.probes.packing import LOSSES, Form, Packed, pack, packed_bytes, unpack
from netdoctor.probes.readings import Sample
from tests.distributed import trainings


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Sample:
    """Of one process that asks no other."""
    model = trainings.network()
    taken: list[Sample] = []
    with netdoctor.watch(model, reporters=[], rules=[], every=1000) as monitor:
        recorder = monitor._recorder
        recorder._activations.shared = recorder._parameters.shared = True
        monkeypatch.setattr(recorder._readings, "add", taken.append)
        trainings.train(model, trainings.batches(1))
    return taken[0]


def form(split: tuple[int, ...] = (), whole: tuple[int, ...] = tuple(range(10))) -> Form:
    parameters = list(trainings.network().named_parameters())
    sizes = np.array([float(parameter.numel()) for _, parameter in parameters])
    return Form(2, np.ones(10, bool), split, whole, tuple(name for name, _ in parameters), sizes)


@pytest.mark.parametrize("split", [(), (0, 3)])
def test_the_size_is_what_was_promised(sample: Sample, split: tuple[int, ...]) -> None:
    inputs = len(sample.layers.rows) - 6
    for steps in (range(1, 2), range(1, 5000)):
        packed = pack(sample, {1: 2.0}, steps, 1, form(split))
        assert packed.nbytes == packed_bytes(6, inputs, 10, len(split), 10)


def test_losses_of_many_steps_keep_their_mean_over_the_ranks(sample: Sample) -> None:
    """The mean of neighbours is that of all ranks; what a single step adds to it is this rank's."""
    steps = range(1, 1 + 3 * LOSSES)
    generator = np.random.default_rng(0)
    own, other = (dict(zip(steps, generator.normal(level, 0.1, len(steps)), strict=True)) for level in (1.0, 2.0))
    whole = replace(sample, step=steps[-1])
    mine, theirs = (pack(whole, losses, steps, 1, form()) for losses in (own, other))
    together = Packed(mine.sums + theirs.sums, np.maximum(mine.highs, theirs.highs))
    told = unpack(together, whole, own, steps, form()).losses
    assert list(told) == list(steps)
    expected = (np.array(list(own.values())) + np.array(list(other.values()))) / 2
    np.testing.assert_allclose(
        np.reshape(list(told.values()), (-1, 3)).mean(1), expected.reshape(-1, 3).mean(1), rtol=1e-12
    )


def test_ranks_that_sampled_different_steps_are_told_apart(sample: Sample) -> None:
    mine, theirs = (pack(each, {}, (), 1, form()) for each in (sample, replace(sample, step=7)))
    together = Packed(mine.sums + theirs.sums, np.maximum(mine.highs, theirs.highs))
    with pytest.raises(RuntimeError, match="sampled step 1 while others sampled step 7"):
        unpack(together, sample, {}, (), form())


def test_a_parameter_that_differs_is_measured(sample: Sample) -> None:
    """By how much the sums of its elements differ, over its norm."""
    mine = pack(sample, {}, (), 1, form())
    model = trainings.network()
    trainings.train(model, trainings.batches(1))
    with torch.no_grad():
        model.fc1.weight[0, 0] += 0.5
    totals = np.array([parameter.detach().double().sum() for parameter in model.parameters()])
    theirs = mine.highs.copy()
    theirs[-23:-13], theirs[-13:-3] = totals, -totals
    told = unpack(Packed(mine.sums, np.maximum(mine.highs, theirs)), sample, {}, (), form()).sample
    (spread,) = [part for part in told.named if part.statistics == ("replica_spread",)]
    measured = dict(zip(spread.columns, spread.numbers.numpy()[:, 0], strict=True))
    norm = float(model.fc1.weight.detach().norm())
    assert measured.pop("fc1.weight") == pytest.approx(0.5 / norm, rel=0.1)
    assert max(measured.values()) < 1e-7
