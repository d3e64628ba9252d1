"""Momentum 0.9 makes steps ten times as long: a rate that plain SGD stands is too large with it."""

import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.demo import digits

torch.set_num_threads(1)


def train(rate: float) -> float:
    torch.manual_seed(0)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with netdoctor.watch(model, every=5):
        for _ in range(300):
            batch = torch.randint(len(x), (64,))
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return F.cross_entropy(model(x), y).item()


before = train(rate=0.3)
print("\nThe same again with a tenth of the learning rate:\n")
after = train(rate=0.03)
print(f"\nloss: {before:.3f} sick, {after:.3f} cured")
