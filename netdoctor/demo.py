"""The demo: a sick training of a digits classifier, and the same one with the remedy that its finding names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import netdoctor

STEPS = 300
BATCH = 64


class DeepClassifier(nn.Module):
    """Ten sigmoid layers, all started with weights of std 0.01: far too small for that depth."""

    def __init__(self, pixels: int = 64, width: int = 64, depth: int = 9, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width if layer else pixels, width) for layer in range(depth))
        self.head = nn.Linear(width, classes)
        for linear in (*self.layers, self.head):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        out: Tensor = self.head(x)
        return out


def digits() -> tuple[Tensor, Tensor]:
    """Images of 8x8 pixels, scaled to mean 0 and variance 1, in a random order, and which digit each shows."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(images, dtype=torch.float32)[order], torch.tensor(labels)[order]
    return (x - x.mean()) / x.std(), y


def train(remedy: netdoctor.Remedy | None = None) -> tuple[netdoctor.Monitor, float]:
    """Train from the same seed each time; returns the closed monitor and the accuracy on unseen digits."""
    torch.manual_seed(0)
    x, y = digits()
    x, y, x_test, y_test = x[360:], y[360:], x[:360], y[:360]
    model = DeepClassifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    if remedy is not None:
        remedy.apply(model, optimizer)
    with netdoctor.watch(model) as monitor:
        for _ in range(STEPS):
            batch = torch.randint(len(x), (BATCH,))
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == y_test).float().mean().item()
    return monitor, accuracy


def main() -> int:
    """Train sick and cured, print both verdicts and accuracies; returns 0 if the remedy cured it."""
    torch.set_num_threads(1)  # layers this small only wait for each other on more
    print(
        f"A classifier of ten sigmoid layers, weights of std 0.01, {STEPS} steps on scikit-learn's digits.\n",
        flush=True,
    )
    sick, before = train()
    print(f"\nAccuracy on unseen digits: {before:.1%}.\n", flush=True)
    remedy = next((remedy for finding in sick.findings for remedy in finding.remedies if remedy.applicable), None)
    if remedy is None:
        print("No finding has a remedy that can be applied.")
        return 1
    print(f"The same again with the remedy.\n  {remedy.action}.\n", flush=True)
    cured, after = train(remedy)
    print(f"\nAccuracy on unseen digits: {after:.1%}, up from {before:.1%}.", flush=True)
    return 0 if cured.diagnose().healthy and after > before else 1
