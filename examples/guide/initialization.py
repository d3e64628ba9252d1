"""Eight ReLU layers with weights of std 0.01, then initialised as the finding's remedy says."""

import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.demo import digits

torch.set_num_threads(1)


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return model


def train(remedy: netdoctor.Remedy | None = None) -> tuple[netdoctor.Monitor, float]:
    torch.manual_seed(0)
    x, y = digits()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
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
print("\nThe same again with the first remedy:\n")
cured, after = train(sick.findings[0].remedies[0])
print(f"\nloss: {before:.3f} sick, {after:.3f} cured")
