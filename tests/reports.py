"""Reports by hand and from short real trainings, for the tests of reporters."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.facts import Facts, Layer, Parameter
from netdoctor.findings import Diagnosis, Finding, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.reporters import Change, Report

torch.set_num_threads(1)

POOR = Finding(
    "poor-initialization",
    Severity.WARNING,
    1,
    "Activations shrink to 0.64× per layer | std 0.64 → 0.07.",
    ("fc.0", "fc.5"),
    (Reading("gain", 0.64, 1.0, "", (1, 1)),),
    remedies=(Remedy("Initialise with Xavier", "nn.init.xavier_normal_(model.fc[0].weight)", treatment=print),),
)
NON_FINITE = Finding("non-finite", Severity.ERROR, 12, "The loss is NaN from step 12 on.", ("fc.5",))
PLATEAU = Finding("loss-plateau", Severity.NOTE, 80, "The loss fell by 0.002 in 500 steps.")


def deep_history(layers: int = 6, steps: int = 30) -> History:
    """Linear layers fc.0, fc.1 … with a ReLU after each but the last; fc.i has the readings step + i."""
    names = [f"fc.{index}" for index in range(layers)]
    facts = Facts(
        "Deep",
        tuple(Layer(n, "linear", nonlinearity="relu" if n != names[-1] else "identity", called=True) for n in names),
        tuple(Parameter(f"{n}.weight", n, (8, 8), "weight") for n in names)
        + tuple(Parameter(f"{n}.bias", n, (8,), "bias") for n in names),
    )
    history = History(facts)
    for step in range(1, steps + 1):
        readings = step + np.arange(layers, dtype=float)
        weights = tuple(p.name for p in facts.parameters)
        history.record(step, "activation_rms", readings, names)
        history.record(step, "gradient_rms", np.concatenate((readings, readings + 1000)), weights)
        history.record(step, "update_ratio", np.concatenate((readings, readings + 1000)) / 1e4, weights)
        history.record(step, "dead_share", np.full(layers, 0.5 if step >= 10 else np.nan), names)
        history.record(step, "loss", [1 / step])
        history.record(step, "learning_rate", [0.1], ("0",))
    return history


def report_of(
    *findings: Finding,
    changes: tuple[Change, ...] = (),
    resolved: tuple[Finding, ...] = (),
    history: History | None = None,
    skipped: tuple[Skipped, ...] = (),
) -> Report:
    history = deep_history() if history is None else history
    lasting = tuple(finding for finding in findings if finding not in resolved)
    return Report(Diagnosis(history.step, lasting, skipped), changes, findings, resolved, history, 0.01, 0.5)


class Tanh(nn.Module):
    """Ten tanh layers on 64 numbers; ``std`` of the weights is far too small by default."""

    def __init__(self, std: float = 0.01, depth: int = 9, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)
        for linear in (*self.layers, self.head):
            nn.init.normal_(linear.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        out: Tensor = self.head(x)
        return out


class Loop:
    """A training on random numbers, a step a call."""

    def __init__(self, model: nn.Module | None = None, lr: float = 0.01) -> None:
        torch.manual_seed(0)
        self.model = Tanh() if model is None else model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr)
        self.x, self.y = torch.randn(32, 64), torch.randint(0, 10, (32,))

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())
