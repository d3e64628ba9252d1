"""excess-dropout on real runs."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from netdoctor.findings import Severity
from netdoctor.rules.excess_dropout import excess_dropout as rule
from tests.rules.rounds import rounds, rows


def network(rate: float, width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width), nn.ReLU(), nn.Dropout(rate), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
    )


def test_is_named_at_the_first_step_and_lowered() -> None:
    model = network(0.85)
    (finding,) = rounds(rule, model, rows(32, 6), steps=1)
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("2",)
    assert "4.8 stay" in finding.message
    exec(finding.remedies[0].code, {"model": model})
    assert model[2].p == 0.2
    model = network(0.85)
    finding.remedies[0].apply(model)
    assert not rounds(
        rule, model, rows(64, 6), steps=300, optimizer=torch.optim.Adam(model.parameters(), 5e-3), every=50
    )
    inputs, targets = rows(500, 6, seed=0)()
    assert F.mse_loss(model.eval()(inputs), targets) < 0.5 * targets.var()


def test_dropout_inside_recurrent_layers_and_attention_counts() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.LSTM(6, 8, num_layers=2, dropout=0.9, batch_first=True)
            self.look = nn.MultiheadAttention(8, 2, dropout=0.9, batch_first=True)
            self.head = nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.read(x.unsqueeze(1).expand(-1, 3, -1))[0]
            out: torch.Tensor = self.head(self.look(x, x, x)[0][:, -1])
            return out

    model = Reader()
    (finding,) = rounds(rule, model, rows(8, 6))
    assert finding.layers == ("read", "look")
    finding.remedies[0].apply(model)
    assert (model.read.dropout, model.look.dropout) == (0.1, 0.1)


def test_quiet_at_usual_rates_in_wide_layers_and_in_evaluation_mode() -> None:
    assert not rounds(rule, network(0.5), rows(32, 6))
    assert not rounds(rule, network(0.7), rows(32, 6))
    (note,) = rounds(rule, network(0.8, width=1024), rows(32, 6))
    assert note.severity is Severity.NOTE
    assert not rounds(rule, network(0.9).eval(), rows(32, 6))


def test_layers_in_a_row_multiply_where_nothing_is_learned() -> None:
    def row(rate: float) -> nn.Sequential:
        torch.manual_seed(0)
        widths = (6, 24, 24, 24)
        hidden = [nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Dropout(rate)) for i, o in pairwise(widths)]
        return nn.Sequential(*hidden, nn.Linear(24, 1))

    noise = torch.Generator().manual_seed(3)
    model = row(0.7)
    findings = rounds(
        rule,
        model,
        lambda: (torch.randn(8, 6, generator=noise), torch.randn(8, 1, generator=noise)),
        steps=100,
        optimizer=torch.optim.SGD(model.parameters(), 1e-3),
        every=10,
    )
    assert findings[0].layers[:2] == ("0.2", "1.2")
    assert "in a row" in findings[0].message
    findings[0].remedies[0].apply(model)
    assert model.get_submodule("0.2").p == 0.2  # three that keep 0.8 each: about half
    weak = nn.Sequential(nn.Dropout(0.05), *row(0.7))
    before = rounds(
        rule,
        weak,
        lambda: (torch.randn(8, 6, generator=noise), torch.randn(8, 1, generator=noise)),
        steps=100,
        optimizer=torch.optim.SGD(weak.parameters(), 1e-3),
        every=10,
    )
    before[0].remedies[0].apply(weak)
    assert [module.p for module in weak.modules() if isinstance(module, nn.Dropout)] == [0.05, 0.15, 0.15, 0.15]
    model = row(0.3)
    assert not rounds(rule, model, rows(32, 6), steps=100, every=10)
