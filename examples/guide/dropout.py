"""Dropout of nine units in ten, then of as many as the finding's remedy leaves."""

import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.demo import digits

torch.set_num_threads(1)


def train(remedy: netdoctor.Remedy | None = None) -> tuple[netdoctor.Monitor, float]:
    torch.manual_seed(0)
    x, y = digits()
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.9), nn.Linear(48, 48), nn.ReLU(), nn.Dropout(0.9), nn.Linear(48, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    if remedy is not None:
        remedy.apply(model, optimizer)
    with netdoctor.watch(model, every=5) as monitor:
        for _ in range(300):
            batch = torch.randint(len(x), (64,))
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()  # no dropout from here on
    return monitor, F.cross_entropy(model(x), y).item()


sick, before = train()
print("\nThe same again with the first remedy:\n")
cured, after = train(sick.findings[0].remedies[0])
print(f"\nloss: {before:.3f} sick, {after:.3f} cured")
