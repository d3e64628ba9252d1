"""How often samples were seen is found out by samples that come again, and not where none can be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from netdoctor import watch
from netdoctor.probes.repeats import ELEMENTS, ROWS, SPARE, Repeats, fingerprints


def shuffled(count: int, batch: int) -> Iterator[Tensor]:
    """Row numbers of epochs, the last batch of each left out."""
    while True:
        order = torch.randperm(count)
        yield from (order[start : start + batch] for start in range(0, count - batch + 1, batch))


def one_order(count: int, batch: int) -> Iterator[Tensor]:
    while True:
        yield from torch.arange(count).split(batch)


def drawn(count: int, batch: int) -> Iterator[Tensor]:
    while True:
        yield torch.randint(count, (batch,))


class Bag(nn.Module):
    """Of words, called with keywords, as a model of transformers is."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 8), nn.Linear(8, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.head((self.words(input_ids) * attention_mask[..., None]).mean(1))
        return out


def pass_steps(
    model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], rows: Iterator[Tensor], steps: int, every: int = 3
) -> float | None:
    """What is recorded at the end of a run."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with watch(model, reporters=[], every=every) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            call(model, next(rows)).square().mean().backward()
            optimizer.step()
        monitor.diagnose()
        return monitor.history.latest("pass_steps").get("")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("make", "count", "batch", "steps"),
    [
        (shuffled, 600, 20, 150),
        (shuffled, 3000, 100, 150),  # of a batch, only some are looked at
        (shuffled, 40, 40, 120),  # all of it in each step
        (one_order, 700, 20, 300),
        (drawn, 500, 25, 200),
    ],
)
def test_a_pass_takes_as_many_steps_as_there_are_batches(
    make: Callable[[int, int], Iterator[Tensor]], count: int, batch: int, steps: int
) -> None:
    data = torch.randn(count, 3, 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(15, 1))
    found = pass_steps(model, lambda net, rows: net(data[rows]), make(count, batch), steps)
    assert found == pytest.approx(count / batch, rel=0.25)


def test_words_are_known_again_whatever_they_are_padded_to() -> None:
    words = torch.randint(1, 40, (400, 12))
    words[torch.arange(12) >= torch.randint(4, 13, (400, 1))] = 0

    def call(net: nn.Module, rows: Tensor) -> Tensor:
        batch = words[rows]
        batch = batch[:, : int((batch > 0).sum(1).max())]
        out: Tensor = net(input_ids=batch, attention_mask=(batch > 0).long())
        return out

    assert pass_steps(Bag(), call, shuffled(400, 20), 150) == pytest.approx(20, rel=0.25)


def test_all_batches_of_a_step_count() -> None:
    data = torch.randn(600, 4)

    def call(net: nn.Module, rows: Tensor) -> Tensor:
        return torch.cat([net(data[part]) for part in rows.split(10)])

    assert pass_steps(nn.Linear(4, 1), call, shuffled(600, 30), 150) == pytest.approx(20, rel=0.25)


def test_nothing_is_told_of_samples_that_cannot_be_known_again() -> None:
    data = torch.randn(300, 6)
    model = nn.Linear(6, 1)
    assert pass_steps(model, lambda net, rows: net(data[rows] + 0.1 * torch.randn(20, 6)), drawn(300, 20), 150) is None
    assert pass_steps(model, lambda net, rows: net(data[rows] * 0 + 1), drawn(300, 20), 150) is None  # all the same
    few = torch.eye(6)[torch.randint(6, (300,))]
    assert pass_steps(model, lambda net, rows: net(few[rows]), drawn(300, 20), 150) is None  # six kinds

    def begun(net: nn.Module, rows: Tensor) -> Tensor:
        """Time first: a row is a point in time, and the first one is the same for all."""
        return net(torch.cat((torch.ones(1, 6), torch.randn(19, 6))))  # type: ignore[no-any-return]

    assert pass_steps(model, begun, drawn(300, 20), 300) is None


def test_nothing_is_told_before_two_passes() -> None:
    data = torch.randn(2000, 4)
    call: Callable[[nn.Module, Tensor], Tensor] = lambda net, rows: net(data[rows])  # noqa: E731
    assert pass_steps(nn.Linear(4, 1), call, shuffled(2000, 20), 99, every=1) is None
    assert pass_steps(nn.Linear(4, 1), call, shuffled(2000, 20), 180, every=1) is None
    assert pass_steps(nn.Linear(4, 1), call, shuffled(2000, 20), 260, every=1) == pytest.approx(100, rel=0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_fingerprints_are_equal_for_equal_rows_alone(dtype: torch.dtype) -> None:
    rows = torch.randint(2, (200, 40)).to(dtype) if dtype is torch.bool else (50 * torch.rand(200, 40)).to(dtype)
    found = fingerprints((rows,))
    assert found is not None
    assert len(found) == ROWS
    every = torch.cat([fingerprints((rows[place : place + ROWS],)) for place in range(0, 200, ROWS)])  # type: ignore[misc]
    distinct = len({tuple(row) for row in rows.tolist()})
    assert len(set(every.tolist())) == distinct
    again = fingerprints((rows[:ROWS].clone().T.contiguous().T,))
    assert again is not None
    assert again.tolist() == every[:ROWS].tolist()


def test_fingerprints_take_in_all_inputs_and_not_each_element() -> None:
    x, ids = torch.randn(5, 3, 64, 64), torch.arange(5)
    alone, both = fingerprints((x,)), fingerprints(({"image": x, "id": ids, "scale": 2.0, "shared": torch.ones(3)},))
    assert alone is not None
    assert both is not None
    assert alone.tolist() != both.tolist()
    swapped = fingerprints(({"image": x, "id": ids.flip(0)},))
    assert swapped is not None
    assert (both == swapped).tolist() == [False, False, True, False, False]
    assert x[0].numel() > ELEMENTS
    assert fingerprints(()) is None
    assert fingerprints((torch.zeros(0, 3), "text")) is None


def test_steps_are_looked_at_the_more_seldom_the_longer_a_run() -> None:
    repeats, seen, samples = Repeats(), [], torch.arange(4)
    for step in range(1, 16 * SPARE):
        if repeats.due(step):
            repeats.add(step, samples, 4)
            seen.append(step)
    assert seen[:SPARE] == list(range(1, SPARE + 1))
    assert len(seen) < 5 * SPARE
