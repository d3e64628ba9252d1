"""Targets and best constant predictions of losses however they are written, against a search for the best constant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import Tensor, nn
from torch.nn.functional import l1_loss as imported_by_name

from netdoctor import History, watch

ROWS, CLASSES = 40, 5
Loss = Callable[[Tensor], Tensor]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


INPUTS = torch.randn(ROWS, 6, generator=drawn(0))
VALUES = 3 + 2 * torch.randn(ROWS, CLASSES, generator=drawn(1)).exp()  # skewed: mean and median differ
LABELS = torch.randint(0, CLASSES, (ROWS,), generator=drawn(2)).clamp_max(3)
SHARES = torch.rand(ROWS, CLASSES, generator=drawn(3))
SHARES = SHARES / SHARES.sum(1, keepdim=True)
FLAGS = (torch.rand(ROWS, CLASSES, generator=drawn(4)) < 0.5).float()
EACH = torch.arange(ROWS)


def once(history: History, statistic: str) -> float:
    return history.latest(statistic)[""]


def history_of(loss_of: Loss, model: nn.Module | None = None, steps: int = 1, every: int = 1) -> History:
    """Of a run whose targets are the same in each step."""
    torch.manual_seed(0)
    model = nn.Linear(6, CLASSES) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with watch(model, every=every, reporters=[]) as monitor:
        for _ in range(steps):
            loss_of(model(INPUTS)).backward()
            optimizer.step()
    return monitor.history


def best_constant(loss_of: Loss, start: float) -> float:
    """The least that ``loss_of`` gives for one row in place of all, in float64."""

    def loss(row: np.ndarray) -> float:
        return float(loss_of(torch.tensor(row).expand(ROWS, -1)))

    found = optimize.minimize(loss, np.full(CLASSES, start), method="Powell", options={"xtol": 1e-5, "ftol": 1e-9})
    return float(found.fun)


COMPARED: dict[str, Loss] = {
    "l1": lambda o: F.l1_loss(o, VALUES),
    "l1 by name": lambda o: imported_by_name(o, VALUES),
    "l1, summed": lambda o: nn.L1Loss(reduction="sum")(o, VALUES),
    "l1, by hand": lambda o: (VALUES - o).abs().sum(1).mean(),
    "smooth l1": lambda o: F.smooth_l1_loss(o, VALUES, beta=2.0),
    "huber": lambda o: F.huber_loss(o, VALUES, delta=0.7) / 3,
    "squares": lambda o: ((o - VALUES) ** 2).mean(),
    "squares of the other sign": lambda o: (VALUES - o).square().mean(1).sum() / ROWS,
    "a product": lambda o: (lambda d: d * d)(o - VALUES).sum(),
    "flattened": lambda o: (o.reshape(-1) - VALUES.reshape(-1)).pow(2).mean(),
    "torch's own, reduced by hand": lambda o: F.mse_loss(o, VALUES, reduction="none").sum(1).mean(),
}


@pytest.mark.parametrize("way", COMPARED)
def test_the_best_constant_where_values_are_compared(way: str) -> None:
    history = history_of(COMPARED[way])
    squared = history.facts.loss.kind == "mse"
    wanted = best_constant(COMPARED[way], 5.0) * (ROWS / (ROWS - 1) if squared else 1)
    if way == "flattened":  # one column of all values
        wanted = VALUES.double().var().item()
    assert once(history, "constant_loss") == pytest.approx(wanted, rel=0.01 if way in ("smooth l1", "huber") else 1e-4)
    assert once(history, "uninformed_loss") == pytest.approx(COMPARED[way](torch.zeros_like(VALUES)).item(), rel=1e-4)
    assert once(history, "target_low") == pytest.approx(VALUES.min().item(), rel=1e-4)
    assert once(history, "target_high") == pytest.approx(VALUES.max().item(), rel=1e-4)
    assert once(history, "target_mean") == pytest.approx(VALUES.mean().item(), rel=1e-4)
    if way != "flattened":
        assert once(history, "target_std") == pytest.approx(VALUES.double().var(0).mean().sqrt().item(), rel=1e-4)


PICKED: dict[str, Loss] = {
    "label smoothing": lambda o: F.cross_entropy(o, LABELS, label_smoothing=0.2),
    "label smoothing, summed": lambda o: F.cross_entropy(o, LABELS, label_smoothing=0.2, reduction="sum") / 7,
    "shares": lambda o: F.cross_entropy(o, SHARES),
    "picked by index": lambda o: -torch.log(torch.softmax(o, 1)[EACH, LABELS] + 1e-9).mean(),
    "picked by gather": lambda o: -torch.log_softmax(o, -1).gather(1, LABELS[:, None]).mean(),
    "weighed by one-hot": lambda o: -(F.one_hot(LABELS, CLASSES) * torch.log_softmax(o, 1)).sum(1).mean(),
    "weighed by shares": lambda o: (SHARES * -torch.log_softmax(o, 1)).sum() / ROWS,
}


@pytest.mark.parametrize("way", PICKED)
def test_the_best_constant_where_classes_are_picked(way: str) -> None:
    history = history_of(PICKED[way])
    assert once(history, "constant_loss") == pytest.approx(best_constant(PICKED[way], 0.0), rel=1e-4)
    equal = PICKED[way](torch.zeros(ROWS, CLASSES)).item()
    assert once(history, "uninformed_loss") == pytest.approx(equal, rel=1e-4)
    assert once(history, "probability_total") == pytest.approx(1, rel=1e-5)


UNBOUNDED: dict[str, Loss] = {
    "a policy gradient": lambda o: -(torch.log_softmax(o, 1)[EACH, LABELS] * VALUES[:, 0]).mean(),
    "a penalty": lambda o: ((o.norm(dim=1) - 1) ** 2).mean(),
    "with a regulariser": lambda o: ((o - VALUES) ** 2).mean() + 0.1 * o.square().mean(),
    "weighed by sample": lambda o: ((o - VALUES) ** 2 * SHARES).mean(),
    "of pairs": lambda o: ((o[:, None] - o[None]) ** 2).mean(),
    "the root of squares": lambda o: ((o - VALUES) ** 2).mean().sqrt(),
}


@pytest.mark.parametrize("way", UNBOUNDED)
def test_no_constant_where_none_is_known(way: str) -> None:
    history = history_of(UNBOUNDED[way])
    assert "constant_loss" not in history.statistics or np.isnan(history.table("constant_loss").values).all()


def test_two_losses_in_a_step_have_no_constant_in_common() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, CLASSES)
    with watch(model, every=1, reporters=[]) as monitor:
        F.cross_entropy(model(INPUTS), LABELS).backward()
        F.mse_loss(model(INPUTS), VALUES).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert not {"constant_loss", "uninformed_loss"} & set(monitor.history.statistics)


@pytest.mark.parametrize("end", [nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Identity])
def test_the_target_is_told_behind_a_nonlinearity_and_by_seldom_samples(end: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(6, CLASSES), end())
    history = history_of(lambda o: (o - VALUES).abs().mean(), model, steps=40, every=2)
    assert len(history.table("target_low")) == 20
    assert once(history, "target_low") == pytest.approx(VALUES.min().item(), rel=1e-4)
    assert once(history, "constant_loss") == pytest.approx(history_of(COMPARED["l1"]).latest("constant_loss")[""], 1e-4)


class Scaled(nn.Module):
    """Gives its answer in the unit of the targets, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"answer": 100 + 10 * self.fc(x)}


def test_the_target_is_told_by_what_the_model_gives() -> None:
    torch.manual_seed(0)
    model = Scaled()
    with watch(model, every=1, reporters=[]) as monitor:
        ((model(INPUTS)["answer"] - VALUES) ** 2).mean().backward()
        torch.optim.SGD(model.parameters(), 1e-3).step()
    assert once(monitor.history, "target_high") == pytest.approx(VALUES.max().item(), rel=1e-4)
    assert once(monitor.history, "output_low") > 60


def test_an_output_that_drowns_the_target_tells_nothing() -> None:
    model = nn.Linear(6, CLASSES)
    with torch.no_grad():
        model.bias.fill_(1e9)
    history = history_of(lambda o: ((o - VALUES) ** 2).mean(), model)
    assert "target_low" not in history.statistics or not history.latest("target_low")


def test_one_hot_and_whole_targets_are_told_exactly() -> None:
    one_hot = F.one_hot(LABELS, CLASSES).float()
    assert once(history_of(lambda o: (o - one_hot).abs().mean()), "one_hot_share") == 1
    model, indices = nn.Linear(6, 1), LABELS.float()[:, None]
    shares = LABELS.bincount().double() / ROWS
    evenness = -(shares * shares.log()).sum().item() / np.log(len(shares))
    for loss_of in (lambda o: ((o - indices) ** 2).mean(), lambda o: F.mse_loss(o, indices)):
        assert once(history_of(loss_of, model), "target_evenness") == pytest.approx(evenness, rel=1e-4)
    assert once(history_of(lambda o: F.mse_loss(o, indices + 0.5), model), "target_evenness") == 0


def test_frequencies_of_whole_targets_are_rough_where_neighbours_differ() -> None:
    counts = {"smooth": [1, 3, 6, 9, 8, 5, 2], "rough": [9, 1, 8, 2, 6, 3, 5]}
    for name, each in counts.items():
        target = torch.repeat_interleave(torch.arange(7.0), torch.tensor(each)).reshape(-1, 2)
        model, x = nn.Linear(6, 1), torch.randn(*target.shape, 6)  # one answer for each place of a sequence
        with watch(model, every=1, reporters=[]) as monitor:
            F.mse_loss(model(x).squeeze(2), target).backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
        ranks = np.argsort(np.argsort(each)).astype(float)
        expected = np.square(np.diff(ranks)).sum() / (2 * np.square(ranks - ranks.mean()).sum())
        assert once(monitor.history, "target_roughness") == pytest.approx(expected)
        assert (expected > 1) == (name == "rough")


def test_what_is_taken_for_probabilities_is_summed() -> None:
    sums = {
        "nll of probabilities": lambda o: F.nll_loss(o.softmax(1), LABELS),
        "logarithms of sigmoids": lambda o: -(F.one_hot(LABELS, CLASSES) * (o.sigmoid() + 1e-7).log()).sum(1).mean(),
        "picked from sigmoids": lambda o: -o.sigmoid()[EACH, LABELS].log().mean(),
    }
    torch.manual_seed(0)
    output = nn.Linear(6, CLASSES)(INPUTS).detach()
    wanted = (output.softmax(1).exp().sum(1), output.sigmoid().sum(1), output.sigmoid().sum(1))
    for (way, loss_of), sum_of_row in zip(sums.items(), wanted, strict=True):
        got = once(history_of(loss_of), "probability_total")
        assert got == pytest.approx(sum_of_row.mean().item(), rel=1e-5), way


def test_a_binary_cross_entropy_by_hand_picks_no_class() -> None:
    def loss_of(output: Tensor) -> Tensor:
        p = output.sigmoid()
        return -(FLAGS * p.log() + (1 - FLAGS) * (1 - p).log()).sum(1).mean()

    assert "probability_total" not in history_of(loss_of).statistics


def test_several_labels_are_counted() -> None:
    share = (FLAGS.sum(1) > 1).float().mean().item()
    assert once(history_of(lambda o: F.cross_entropy(o, FLAGS)), "several_labels_share") == pytest.approx(share)
    assert once(history_of(lambda o: F.cross_entropy(o, SHARES)), "several_labels_share") == 0


def test_the_gradient_of_the_first_weights_is_counted_element_by_element() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(500, 8), nn.Flatten(), nn.Linear(24, 3))
    tokens = torch.randint(0, 500, (10, 3))
    with watch(model, every=1, reporters=[]) as monitor:
        F.cross_entropy(model(tokens), torch.randint(0, 3, (10,))).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert monitor.history.latest("gradient_nonzero") == {"0.weight": 8 * len(tokens.unique())}
