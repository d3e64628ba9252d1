"""How the std of the weights decides what reaches the last layer: the table of a lecture, measured and judged.

A stack of six layers, 4096 wide and without biases, takes N(0, 1) input and makes one training step. Five choices of
the weights' std: expected and measured std of each layer's activations, and what netdoctor says of it.

    python examples/lecture.py [--width 512]
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch
from torch import nn

import netdoctor

DEPTH = 6
BATCH = 64
TAUGHT = 4096  # the lecture's width: at another one the weights are scaled so that the table stays the same


@dataclass(frozen=True)
class Row:
    """One line of the table: the factor on the std of the activations per layer, and the nonlinearity."""

    title: str
    gain: float  # weight std is gain / sqrt(width)
    relu: bool

    @property
    def expected(self) -> list[float]:
        """Std of each layer's activations in theory, after the nonlinearity."""
        if not self.relu:
            return [self.gain**layer for layer in range(1, DEPTH + 1)]
        shrunk = [self.gain * (self.gain / math.sqrt(2)) ** layer for layer in range(DEPTH)]  # before the ReLU
        return [std * math.sqrt(0.5 - 0.5 / math.pi) for std in shrunk]  # std of a rectified normal


ROWS = (
    Row("linear, N(0, 0.02²)", 0.02 * math.sqrt(TAUGHT), relu=False),
    Row("linear, N(0, 0.01²)", 0.01 * math.sqrt(TAUGHT), relu=False),
    Row("linear, N(0, 1/D)", 1.0, relu=False),
    Row("ReLU, N(0, 1/D)", 1.0, relu=True),
    Row("ReLU, N(0, 2/D)", math.sqrt(2.0), relu=True),
)


@dataclass(frozen=True)
class Outcome:
    """What one training step showed: std of each layer's activations, the verdict and its reason."""

    measured: list[float]
    verdict: str
    reason: str


def train_one_step(row: Row, width: int = TAUGHT) -> Outcome:
    layers = [nn.utils.skip_init(nn.Linear, width, width, bias=False) for _ in range(DEPTH)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=row.gain / math.sqrt(width))
    steps = [nn.Sequential(layer, nn.ReLU()) if row.relu else layer for layer in layers]
    measured: list[float] = []
    for step in steps:  # netdoctor samples 64 units of 64 inputs; the table takes all of them
        step.register_forward_hook(lambda module, inputs, output: measured.append(float(output.detach().std())))
    model = nn.Sequential(*steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with netdoctor.watch(model, reporters=[]) as monitor:
        loss = model(torch.randn(BATCH, width)).square().mean()
        loss.backward()
        optimizer.step()
        found = [f for f in monitor.diagnose().findings if f.rule == "poor-initialization"]
    if not found:
        return Outcome(measured, "healthy", "")
    signal = found[0].readings[0].value
    return Outcome(measured, "vanishing" if signal < 1 else "exploding scale", found[0].message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=TAUGHT, help="units of each layer (default: %(default)s)")
    width = parser.parse_args().width
    torch.manual_seed(0)
    print(f"std of the activations, layers 1 to {DEPTH}, width {width}, batch {BATCH}, N(0, 1) input\n")
    for row in ROWS:
        outcome = train_one_step(row, width)
        print(f"{row.title:20} expected " + " ".join(f"{std:5.2f}" for std in row.expected))
        print(f"{'':20} measured " + " ".join(f"{std:5.2f}" for std in outcome.measured) + f"   {outcome.verdict}")
        if outcome.reason:
            print(f"{'':20} {outcome.reason}")


if __name__ == "__main__":
    main()
