"""exploding-gradient on real runs: sick, healthy, cured."""

import pytest
import torch
from torch import nn

import netdoctor
from netdoctor.findings import Evidence
from netdoctor.history import History
from netdoctor.rules.exploding_gradient import exploding_gradient, fires, quiet, scaled_target

X = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
CLASS = (X[:, :2] > 0).long() @ torch.tensor([1, 2])
TARGET = X[:, :1] * 50 + 150


def network(depth: int, out: int, std: float | None = None, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(32, out))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, target: torch.Tensor, steps: int, clip: float = 0.0
) -> tuple[History, float]:
    loss_function = nn.functional.mse_loss if target.is_floating_point() else nn.functional.cross_entropy
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        for step in range(steps):
            batch = slice(step * 64 % 512, step * 64 % 512 + 64)
            loss = loss_function(model(X[batch]), target[batch])
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        monitor.diagnose()
        return monitor.history, float(loss.detach())


def found(history: History) -> list[Evidence]:
    return [answer for answer in exploding_gradient(history) if isinstance(answer, Evidence)]


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert found(history)


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not found(history)


def test_raw_targets_that_blow_up_are_found_early_and_clipping_keeps_them_finite() -> None:
    model = network(2, 1)
    history, _ = train(model, torch.optim.SGD(model.parameters(), lr=0.05), TARGET, 5)
    (evidence,) = found(history)
    assert "Standardise" in evidence.remedies[0].action
    clip = next(remedy for remedy in evidence.remedies if "clip_grad_norm_" in remedy.code)
    healed = network(2, 1)
    optimizer = torch.optim.SGD(healed.parameters(), lr=0.05)
    clip.apply(healed, optimizer)
    history, last = train(healed, optimizer, TARGET, 300)
    assert last < 2500  # the variance of the targets
    assert not found(history)


def test_too_large_weights_are_found_over_the_depth_and_reinitialised() -> None:
    model = network(8, 4, std=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history, _ = train(model, optimizer, CLASS, 5)
    (evidence,) = found(history)
    assert evidence.layers[0] == "0"
    exec(evidence.remedies[0].code, {"model": model, "nn": nn})
    history, last = train(model, torch.optim.Adam(model.parameters(), lr=1e-3), CLASS, 100)
    assert last < 1.0
    assert not found(history)


@pytest.mark.parametrize("seed", range(3))
def test_large_gradients_that_train_are_healthy(seed: int) -> None:
    for model, target, lr in ((network(2, 1, seed=seed), TARGET, 1e-5), (network(3, 4, seed=seed), CLASS, 0.1)):
        history, _ = train(model, torch.optim.SGD(model.parameters(), lr=lr), target, 60)
        assert not found(history)


def test_clipping_at_work_is_no_explosion() -> None:
    model = network(2, 1)
    history, _ = train(model, torch.optim.SGD(model.parameters(), lr=0.05), TARGET, 100, clip=1.0)
    assert not found(history)


def test_clipping_makes_steps_of_a_hundredth_of_the_weights() -> None:
    model = network(2, 1)
    weights = sum(float(layer.weight.detach().square().sum()) for layer in model if isinstance(layer, nn.Linear)) ** 0.5
    history, _ = train(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), 5 * X[:, :1], 4)
    (evidence,) = found(history)
    lowered, clipped = (remedy for remedy in evidence.remedies if "clip_grad_norm_" in remedy.code)
    norm = 0.01 * weights * (1 - 0.9) / 0.5
    assert f"max_norm={norm:.2g}" in clipped.code
    assert f"max_norm={10 * norm:.2g}" in lowered.code
    assert '"lr"] *= 0.1' in lowered.code
    fresh = network(2, 1)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=0.5, momentum=0.9)
    lowered.apply(fresh, optimizer)
    _, last = train(fresh, optimizer, 5 * X[:, :1], 200)
    assert last < 2.5  # a tenth of the variance of the targets


def test_where_the_optimizer_rescales_gradients_a_lower_rate_comes_before_clipping() -> None:
    model = network(2, 1)
    history, _ = train(model, torch.optim.Adam(model.parameters(), lr=1.0), 5 * X[:, :1], 4)
    (evidence,) = found(history)
    assert ["clip_grad_norm_" in remedy.code for remedy in evidence.remedies] == [False, True]
    fresh = network(2, 1)
    optimizer = torch.optim.Adam(fresh.parameters(), lr=1.0)
    evidence.remedies[0].apply(fresh, optimizer)
    _, last = train(fresh, optimizer, 5 * X[:, :1], 200)
    assert last < 2.5


def test_targets_that_grow_with_the_outputs_are_not_in_raw_units() -> None:
    history = History.of(fires()[0].facts, target_rms=[1.0, 2.0, 900.0])
    assert not scaled_target(history)
