"""Accuracy, shares and ranges are read from the loss alone, whatever way it is written."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from netdoctor import History, watch

ROWS = torch.arange(24)
INPUTS = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randint(0, 5, (24,), generator=torch.Generator().manual_seed(1)).clamp_max(3)  # class 4 never occurs
BINARY = (torch.rand(24, 5, generator=torch.Generator().manual_seed(2)) < 0.3).float()


def history_of(loss_of: Callable[[Tensor], Tensor]) -> tuple[History, Tensor]:
    """What one step recorded, and the model's output in it."""
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    with watch(model, every=1, reporters=[]) as monitor:
        output = model(INPUTS)
        loss_of(output).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    return monitor.history, output.detach()


def once(history: History, statistic: str) -> float | None:
    return history.latest(statistic).get("")


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "function": lambda o: F.cross_entropy(o, CLASSES),
    "module": lambda o: nn.NLLLoss(reduction="sum")(F.log_softmax(o, 1), CLASSES),
    "label smoothing": lambda o: F.cross_entropy(o, CLASSES, label_smoothing=0.1),
    "one-hot targets": lambda o: F.cross_entropy(o, F.one_hot(CLASSES, 5).float()),
    "picked by index": lambda o: -torch.log(torch.softmax(o, 1)[ROWS, CLASSES]).mean(),
    "picked by gather": lambda o: -torch.log(torch.softmax(o, -1).gather(1, CLASSES[:, None])).mean(),
    "weighed by one-hot": lambda o: -(F.one_hot(CLASSES, 5) * torch.log_softmax(o, 1)).sum(1).mean(),
}


@pytest.mark.parametrize("way", WAYS)
def test_classes(way: str) -> None:
    history, output = history_of(WAYS[way])
    predicted = output.argmax(1)
    assert once(history, "accuracy") == pytest.approx((predicted == CLASSES).float().mean().item())
    counts = predicted.bincount(minlength=5)
    assert once(history, "largest_predicted_share") == pytest.approx(counts.max().item() / 24)
    assert once(history, "batch_class_share") == pytest.approx(CLASSES.bincount().max().item() / 24)
    assert CLASSES.bincount()[int(once(history, "batch_class") or 0)] == CLASSES.bincount().max()


def test_a_ratio_is_no_probability() -> None:
    """The logarithm of p / q, of a divergence written by hand, tells neither of the two."""
    aim = F.one_hot(CLASSES, 5) + 1e-8
    history, _ = history_of(lambda o: (aim * (aim / o.softmax(1)).log()).sum(1).mean())
    assert once(history, "probability_total") is None
    assert once(history, "constant_loss") is None
    history, _ = history_of(lambda o: -(aim * (o.softmax(1) / 2.0).log()).sum(1).mean())
    assert once(history, "accuracy") is not None


def test_ignored_targets_are_no_targets() -> None:
    target = CLASSES.clone()
    target[10:] = -100
    history, output = history_of(lambda o: F.cross_entropy(o, target))
    assert once(history, "accuracy") == pytest.approx((output.argmax(1) == CLASSES)[:10].float().mean().item())


def test_shares_of_the_classes_and_the_loss_without_information() -> None:
    history, _ = history_of(lambda o: F.cross_entropy(o, CLASSES) / 2)
    assert once(history, "largest_class_share") == pytest.approx(CLASSES.bincount().max().item() / 24)
    assert once(history, "smallest_class_share") == 0
    assert once(history, "uninformed_loss") == pytest.approx(torch.tensor(5.0).log().item() / 2)


@pytest.mark.parametrize("logits", [False, True])
def test_several_labels(logits: bool) -> None:
    def loss_of(output: Tensor) -> Tensor:
        if logits:
            return F.binary_cross_entropy_with_logits(output, BINARY)
        return F.binary_cross_entropy(torch.sigmoid(output), BINARY)

    history, output = history_of(loss_of)
    positive = (output > 0).float()
    assert once(history, "accuracy") == pytest.approx((positive == BINARY).float().mean().item())
    shares = positive.mean(0)
    assert once(history, "largest_predicted_share") == pytest.approx(torch.maximum(shares, 1 - shares).mean().item())
    rates = BINARY.mean(0)
    assert once(history, "batch_class_share") == pytest.approx(torch.maximum(rates, 1 - rates).mean().item())
    assert once(history, "largest_class_share") == pytest.approx(max(rates.max(), 1 - rates.min()).item())
    assert once(history, "smallest_class_share") == pytest.approx(min(rates.min(), 1 - rates.max()).item())
    assert once(history, "uninformed_loss") == pytest.approx(torch.tensor(2.0).log().item())


def test_values() -> None:
    target = 3 + 2 * torch.randn(24, 5)
    history, output = history_of(lambda o: F.mse_loss(o, target))
    for name, tensor in (("output", output), ("target", target)):
        assert once(history, f"{name}_low") == pytest.approx(tensor.min().item())
        assert once(history, f"{name}_high") == pytest.approx(tensor.max().item())
    assert once(history, "one_hot_share") == 0
    assert once(history, "uninformed_loss") == pytest.approx(target.square().mean().item(), rel=1e-5)
    assert once(history, "accuracy") is None


def test_classes_compared_as_values() -> None:
    target = F.one_hot(CLASSES, 5).float()
    target[0] = 1
    history, _ = history_of(lambda o: F.smooth_l1_loss(torch.softmax(o, 1), target))
    assert once(history, "one_hot_share") == pytest.approx(23 / 24)


def test_nothing_is_said_where_the_loss_does_not_show_it() -> None:
    history, _ = history_of(lambda o: o.square().mean() + o.abs().amax())
    assert not {"accuracy", "target_low", "largest_class_share", "uninformed_loss"} & set(history.statistics)


def test_the_weight_of_ones_counts_in_the_best_constant() -> None:
    weight = torch.linspace(0.5, 4.0, BINARY.shape[1])
    history, _ = history_of(lambda o: F.binary_cross_entropy_with_logits(o, BINARY, pos_weight=weight))

    def loss(column: int, logit: float) -> float:
        given = torch.full((len(BINARY),), logit)
        each = F.binary_cross_entropy_with_logits(given, BINARY[:, column], pos_weight=weight[column])
        return float(each)

    columns = range(BINARY.shape[1])
    best = [minimize_scalar(functools.partial(loss, column)).fun for column in columns]
    assert once(history, "constant_loss") == pytest.approx(sum(best) / len(best), rel=1e-4)
    assert once(history, "uninformed_loss") == pytest.approx(sum(loss(c, 0.0) for c in columns) / len(columns))
