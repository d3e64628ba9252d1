"""Trains a digits classifier on far too few images and writes what netdoctor saw of it as one HTML page.

    python examples/html_report.py [PAGE]

Open the page in any browser; it needs no network.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import netdoctor

IMAGES = 150  # to learn from: a model of 80,000 weights knows them by heart soon
EPOCHS = 120
BATCH = 25


def main(page: str = "netdoctor-report.html") -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits))
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16 - 0.3, torch.tensor(digits)[order]
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(10, y.shape), y)  # one label in ten is wrong
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with netdoctor.watch(model) as monitor:
        for _ in range(EPOCHS):
            for batch in torch.randperm(IMAGES).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                output = model(x[IMAGES:])
                loss, hits = F.cross_entropy(output, y[IMAGES:]), output.argmax(1) == y[IMAGES:]
            monitor.observe(val_loss=loss, val_accuracy=hits.float().mean())
            model.train()
    print(f"Open {monitor.report(page)}.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
