"""Adam with a learning rate that SGD would stand, then with the remedy of the finding."""

import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.demo import digits

torch.set_num_threads(1)


def train(remedy: netdoctor.Remedy | None = None) -> tuple[netdoctor.Monitor, float]:
    torch.manual_seed(0)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    if remedy is not None:
        remedy.apply(model, optimizer)
    with netdoctor.watch(model, every=5) as monitor:
        for _ in range(300):
            batch = torch.randint(len(x), (64,))
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return monitor, F.cross_entropy(model(x), y).item()


sick, before = train()
remedy = next(remedy for remedy in sick.findings[0].remedies if remedy.applicable)
print(f"\nThe same again with a remedy: {remedy.action}.\n")
cured, after = train(remedy)
print(f"\nloss: {before:.3f} sick, {after:.3f} cured")
