"""redundant-softmax on real runs: found at the first step, cured by leaving it out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.findings import Severity
from netdoctor.rules.redundant_softmax import redundant_softmax as rule
from tests.rules.training import descend, digits, findings_of, mlp

X, Y = digits()
FLAGS = torch.stack((Y % 2 == 0, Y > 4, Y % 3 == 0), 1).float()


def batch(step: int, y: Tensor = Y) -> tuple[Tensor, Tensor]:
    chosen = torch.arange(32 * step, 32 * (step + 1)) % len(X)
    return X[chosen], y[chosen]


def test_a_softmax_module_is_named_and_left_out() -> None:
    model = mlp().append(nn.Softmax(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(step: int) -> Tensor:
        x, y = batch(step)
        return F.cross_entropy(model(x), y)

    (finding,) = findings_of(rule, model, optimizer, loss_of, 1)
    assert finding.severity == Severity.ERROR
    assert finding.layers == ("4", "5")
    assert "1.46" in finding.message  # -ln(e / (e + 9))
    exec(finding.remedies[0].code, {"model": mlp().append(nn.Softmax(1)), "nn": nn})
    finding.remedies[0].apply(model, optimizer)
    assert descend(optimizer, loss_of, 250) < 0.3


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor], Severity | None]] = {
    "in forward": (lambda o: o.softmax(-1), nn.CrossEntropyLoss(), Severity.ERROR),
    "smoothed": (lambda o: o.softmax(-1), nn.CrossEntropyLoss(label_smoothing=0.1), Severity.ERROR),
    "by hand": (
        lambda o: F.softmax(o, 1),
        lambda o, t: -o.softmax(1)[torch.arange(len(t)), t].log().mean(),
        Severity.ERROR,
    ),
    "logits": (lambda o: o, F.cross_entropy, None),
    "logarithms": (lambda o: o.log_softmax(1), F.cross_entropy, Severity.NOTE),
    "logarithms for nll": (lambda o: o.log_softmax(1), F.nll_loss, None),
    "a mixture": (lambda o: (o.softmax(1) * o).sum(1, keepdim=True) - o, F.cross_entropy, None),
    "temperature": (lambda o: o / 0.07, F.cross_entropy, None),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_write_it(way: str) -> None:
    end, criterion, severity = WAYS[way]
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(step: int) -> Tensor:
        x, y = batch(step)
        return criterion(end(model(x)), y)

    findings = findings_of(rule, model, optimizer, loss_of, 2)
    assert {finding.severity for finding in findings} == {severity} - {None}
    for finding in findings:
        assert not finding.remedies[0].applicable
        assert finding.layers[0] == "4"


@pytest.mark.parametrize("sick", [True, False])
def test_a_sigmoid_before_a_loss_with_logits(sick: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 3), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss_of(step: int) -> Tensor:
        x, y = batch(step, FLAGS)
        return (F.binary_cross_entropy_with_logits if sick else F.binary_cross_entropy)(model(x), y)

    findings = findings_of(rule, model, optimizer, loss_of, 1)
    assert [finding.layers for finding in findings] == [("2", "3")] * sick
    for finding in findings:
        finding.remedies[0].apply(model, optimizer)
        assert descend(optimizer, loss_of, 250) < 0.2


@pytest.mark.parametrize("sick", [True, False])
def test_a_sigmoid_after_a_parameter_of_the_model_itself(sick: bool) -> None:
    """What holds parameters of its own is a layer, but not the last one: those inside are looked at."""

    class Ordinal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(64, 1)
            self.cuts = nn.Parameter(torch.linspace(1, -1, 3))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.score(x) + self.cuts
            return logits.sigmoid() if sick else logits

    torch.manual_seed(0)
    model = Ordinal()

    def loss_of(step: int) -> Tensor:
        x, y = batch(step, FLAGS)
        return F.binary_cross_entropy_with_logits(model(x), y)

    findings = findings_of(rule, model, torch.optim.Adam(model.parameters(), lr=1e-2), loss_of, 1)
    assert [finding.layers for finding in findings] == [("score",)] * sick
