"""unnormalized-input on real runs: raw inputs are named within five steps, scaled ones never."""

from __future__ import annotations

import pytest
import torch
from sklearn import datasets
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding, Remedy, Severity
from netdoctor.history import History
from netdoctor.rules.unnormalized_input import fires, quiet, unnormalized_input
from tests.rules.rounds import rounds, rows
from tests.rules.training import digits, mlp, train


def table(name: str, scaled: bool) -> tuple[Tensor, Tensor]:
    data = getattr(datasets, f"load_{name}")()
    x = torch.tensor(data.data, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0) if scaled else x, torch.tensor(data.target)


def network(inputs: int, outputs: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


def found(model: nn.Module, data: tuple[Tensor, Tensor], steps: int = 5, lr: float = 0.01) -> tuple[Finding, ...]:
    findings, _ = train(unnormalized_input, model, torch.optim.SGD(model.parameters(), lr), steps, data, judge=steps)
    return findings


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert len(unnormalized_input(history)) == 1


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not [answer for answer in unnormalized_input(history) if hasattr(answer, "message")]


@pytest.mark.parametrize(("name", "inputs", "outputs"), [("wine", 13, 3), ("breast_cancer", 30, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_raw_tables_are_found_and_scaled_ones_are_not(name: str, inputs: int, outputs: int, seed: int) -> None:
    (finding,) = found(network(inputs, outputs, seed), table(name, scaled=False))
    assert finding.layers == ("0",)
    assert "each feature" in finding.remedies[0].action
    assert not found(network(inputs, outputs, seed), table(name, scaled=True), 30)


@pytest.mark.parametrize(("scale", "sick"), [(1 / 255, True), (1, False), (16, False), (255, True), (1e4, True)])
def test_pixels_by_scale(scale: float, sick: bool) -> None:
    x, y = datasets.load_digits(return_X_y=True)
    data = torch.tensor(x / 16 * scale, dtype=torch.float32), torch.tensor(y)
    assert bool(found(mlp(), data, lr=1e-6)) is sick
    torch.manual_seed(0)
    images = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    findings = found(images, data, lr=1e-6)
    assert [finding.layers for finding in findings] == [("1",)] * sick


def test_a_signal_on_an_offset_is_found() -> None:
    x, y = digits()
    (finding,) = found(mlp(), (x * 0.1 + 10, y))
    assert "from sample to sample it varies by 0.07" in finding.message


def test_token_ids_one_hot_and_a_norm_in_front_are_healthy() -> None:
    torch.manual_seed(0)
    ids, labels = torch.randint(0, 500, (256, 4)), torch.randint(0, 3, (256,))
    assert not found(nn.Sequential(nn.Embedding(500, 8), nn.Flatten(), nn.Linear(32, 3)), (ids, labels))
    one_hot = nn.functional.one_hot(ids[:, 0], 500).float()
    assert not found(nn.Sequential(nn.Linear(500, 16), nn.ReLU(), nn.Linear(16, 3)), (one_hot, labels))
    x, y = table("wine", scaled=False)
    assert not found(nn.Sequential(nn.BatchNorm1d(13), *network(13, 3)), (x, y))
    behind = found(nn.Sequential(nn.Linear(13, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)), (x, y))
    assert [finding.severity for finding in behind] == [Severity.NOTE]


def test_features_of_a_frozen_backbone_are_not_the_input() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).requires_grad_(False)
    with torch.no_grad():
        backbone.get_parameter("0.weight").mul_(200)
    assert not found(nn.Sequential(backbone, nn.Linear(64, 10)), digits(), lr=1e-4)


@pytest.mark.parametrize("name", ["wine", "digits"])
def test_the_first_remedy_cures(name: str) -> None:
    x, y = table(name, scaled=False)
    x = x * 16 if name == "digits" else x
    sizes = x.shape[1], int(y.max()) + 1
    sick = network(*sizes)
    optimizer = torch.optim.SGD(sick.parameters(), 0.05)
    _, losses = train(unnormalized_input, sick, optimizer, 200, (x, y), judge=200)
    assert not sum(losses[-10:]) / 10 < 0.9
    (finding,) = found(network(*sizes), (x, y))
    cured = network(*sizes)
    finding.remedies[0].apply(cured)
    findings, losses = train(unnormalized_input, cured, torch.optim.SGD(cured.parameters(), 0.05), 300, (x, y))
    assert sum(losses[-10:]) / 10 < 0.5
    assert not findings
    names = {"x": x, "x_train": x, "x_test": x}
    exec(finding.remedies[0].code, names)
    scaled = names["x_train"] if name == "wine" else names["x"]
    assert float(scaled.std()) == pytest.approx(1, rel=0.1)
    assert not found(network(*sizes), (scaled, y))


def test_the_remedy_for_features_takes_images_and_sequences() -> None:
    (finding,) = found(network(13, 3), table("wine", scaled=False))
    for layer, x in ((nn.Conv2d(3, 4, 3), torch.randn(8, 3, 6, 6)), (nn.Linear(3, 4), torch.randn(8, 5, 3))):
        model = nn.Sequential(layer)
        finding.remedies[0].apply(model)
        seen: list[Tensor] = []
        layer.register_forward_hook(lambda m, args, out, seen=seen: seen.append(args[0]))
        model(x * torch.arange(1.0, 4.0).reshape(3, 1, 1) * 100 + 7 if x.ndim == 4 else x * torch.arange(1.0, 4.0) * 50)
        over = (0, 2, 3) if x.ndim == 4 else (0, 1)
        assert seen[0].std(over).tolist() == pytest.approx([1.0] * 3, rel=0.02)
        assert seen[0].mean(over).tolist() == pytest.approx([0.0] * 3, abs=1e-5)


def test_it_says_that_it_saw_nothing() -> None:
    with netdoctor.watch(nn.Linear(2, 1), reporters=[], rules=[unnormalized_input]) as monitor:
        assert [skip.reason for skip in monitor.diagnose().skipped] == ["no input of a first layer measured yet"]


@pytest.mark.parametrize(("last", "severity"), [(nn.Identity(), Severity.WARNING), (nn.LayerNorm(24), Severity.NOTE)])
def test_a_norm_in_a_branch_does_not_mend_what_passes_it(last: nn.Module, severity: Severity) -> None:
    """A pre-norm block adds to what it is given; only a norm at its end would scale that."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(24, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.Linear(8, 24), block, last, nn.Flatten(), nn.Linear(8 * 24, 10))
    x = digits()[0].unflatten(1, (8, 8)) * 300 + 2000
    (only,) = found(model, (x, digits()[1]))
    assert only.severity is severity
    assert only.layers == ("0",)


def test_small_inputs_that_drown_in_the_biases() -> None:
    def said(scale: float) -> list[Finding]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1))
        draw = rows(64, 8)

        def batch() -> tuple[torch.Tensor, torch.Tensor]:
            inputs, targets = draw()
            return scale * inputs, targets + inputs[:, :1]

        optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
        return rounds(unnormalized_input, model, batch, steps=80, optimizer=optimizer, every=5)

    (finding,) = said(0.04)
    assert "biases" in finding.message
    assert not said(1.0)


def test_placeholders_of_missing_values_do_not_set_the_scale() -> None:
    torch.manual_seed(0)
    clean = torch.randn(500, 10)
    y = (clean[:, 0] > 0).long()
    x = torch.where(torch.rand_like(clean) < 0.01, -9999.0, clean)
    (finding,) = found(network(10, 2), (x, y), lr=1e-6)
    assert "median" in finding.remedies[0].action
    model = nn.Sequential(nn.Linear(10, 4))
    finding.remedies[0].apply(model)
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda m, args, out: seen.append(args[0]))
    model(x)
    usual = x > -9999
    middle = usual & (clean.abs() < 2.5)
    assert float((seen[0] - clean)[middle].abs().max()) < 0.5  # deviations
    assert bool((seen[0][~usual] == -3).all())
    names: dict[str, object] = {"x": x, "x_train": x, "torch": torch}
    exec(finding.remedies[0].code, names)
    assert torch.allclose(torch.as_tensor(names["x"]), seen[0], atol=0.1)


def test_a_column_in_another_unit_is_no_placeholder() -> None:
    torch.manual_seed(0)
    x = (2 * torch.rand(500, 10) - 1) * torch.tensor([1e4, *[1.0] * 9])
    (finding,) = found(network(10, 2), (x, (x[:, 1] > 0).long()), lr=1e-6)
    assert not any("median" in remedy.action for remedy in finding.remedies)


def test_targets_in_the_unit_of_the_inputs_are_standardised_with_them() -> None:
    torch.manual_seed(0)
    x = 4000 + 700 * torch.randn(500, 8)
    y = x[:, :1] + 70 * torch.randn(500, 1)

    def after(steps: int, *remedies: Remedy) -> tuple[tuple[Finding, ...], float]:
        model = network(8, 1)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for remedy in remedies:
            remedy.apply(model, optimizer)
        with netdoctor.watch(model, reporters=[], rules=[unnormalized_input]) as monitor:
            for _ in range(steps):
                loss = nn.functional.mse_loss(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return monitor.diagnose().findings, float(loss.detach())

    (finding,), _ = after(5)
    both, alone = finding.remedies[0], finding.remedies[-1]
    assert "target" in both.action
    assert "target" not in alone.action
    assert both.restart
    assert after(300, both)[1] < 0.1 * 700**2 < after(300, alone)[1]
