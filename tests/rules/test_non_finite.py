"""non-finite on real runs: every origin, and what is no disease."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Evidence, Severity
from netdoctor.history import History
from netdoctor.rules.non_finite import fires, non_finite, quiet

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
SICK = 30  # step


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def train(loss_of: Callable[[nn.Module, int], Tensor], lr: float = 0.1, every: int | None = None) -> History:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with netdoctor.watch(model, reporters=[], every=every) as monitor:
        for step in range(1, SICK + 11):
            loss = loss_of(model, step)
            optimizer.zero_grad()
            loss.backward()
            if all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters()) or step != 25:
                optimizer.step()
        monitor.diagnose()
        return monitor.history


def found(history: History, least: Severity = Severity.WARNING) -> list[Evidence]:
    answers = [answer for answer in non_finite(history) if isinstance(answer, Evidence)]
    return [answer for answer in answers if (answer.severity or non_finite.severity) >= least]


def bad_input(model: nn.Module, step: int) -> Tensor:
    x = X.clone()
    x[3, 2] = float("nan") if step == SICK else x[3, 2]
    return F.cross_entropy(model(x), Y)


def bad_target(model: nn.Module, step: int) -> Tensor:
    return F.mse_loss(model(X)[:, 0], Y.float() * (float("inf") if step == SICK else 1.0))


def log_of_zero(model: nn.Module, step: int) -> Tensor:
    p = torch.softmax(model(X) * (1e6 if step == SICK else 1.0), 1)
    return -(torch.log(p) * F.one_hot(Y, 2)).sum(1).mean()


def division(model: nn.Module, step: int) -> Tensor:
    out: Tensor = model(X)[:, 0] / (X[:, 1].abs() * (step != SICK))
    return out.square().mean()


def root_of_zero(model: nn.Module, step: int) -> Tensor:
    out = model(X)
    return F.cross_entropy(out, Y) + (torch.sqrt((out - out).square().sum()) if step == SICK else 0.0)


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert found(history)


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not found(history)


@pytest.mark.parametrize("every", [None, 1, 1000])
@pytest.mark.parametrize(
    ("loss_of", "says", "layer", "cure"),
    [
        (bad_input, "the batch holds NaN", "0", "torch.isfinite(x)"),
        (bad_target, "the target holds NaN", "2", "torch.isfinite(y)"),
        (log_of_zero, "operation log after layer 2", "2", "clamp_min"),
        (division, "operation div after layer 2", "2", "1e-8"),
        (root_of_zero, "its backward pass gave NaN", "2", "sqrt(x + 1e-8)"),
    ],
)
def test_origin_is_named(
    loss_of: Callable[[nn.Module, int], Tensor], says: str, layer: str, cure: str, every: int | None
) -> None:
    history = train(loss_of, lr=0.001, every=every)
    (evidence,) = found(history)
    assert says in evidence.message
    assert evidence.layers == (layer,)
    assert cure in evidence.remedies[0].code


def test_divergence_is_told_from_a_single_bad_value_and_asks_for_a_lower_rate() -> None:
    history = train(lambda model, step: F.mse_loss(model(X)[:, 0], Y.float() * 100), lr=10.0)
    (evidence,) = found(history)
    assert "diverged" in evidence.message
    assert "lr" in evidence.remedies[0].code


def test_one_skipped_step_is_a_note() -> None:
    history = train(lambda model, step: F.cross_entropy(model(X), Y) * (float("inf") if step == 25 else 1.0))
    assert not found(history)
    assert found(history, Severity.NOTE)


def test_masks_of_minus_infinity_are_healthy() -> None:
    def attention(model: nn.Module, step: int) -> Tensor:
        mask = torch.zeros(64, 2)
        mask[:, 1] = float("-inf")
        return -torch.log_softmax(model(X) + mask, 1)[:, 0].mean() + F.cross_entropy(model(X), Y)

    assert not found(train(attention), Severity.NOTE)
