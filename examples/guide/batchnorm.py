"""Six convolutions whose inputs keep moving, then the same with BatchNorm."""

import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.demo import digits

torch.set_num_threads(1)


def network(norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place in range(6):
        convolution = nn.Conv2d(12 if place else 1, 12, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight)
        layers += [convolution, *([nn.BatchNorm2d(12)] if norm else []), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if place < 2 else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 10))


def train(norm: bool) -> float:
    torch.manual_seed(0)
    x, y = digits()
    x = x.reshape(-1, 1, 8, 8)
    model = network(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with netdoctor.watch(model, every=5):
        for _ in range(200):
            batch = torch.randint(len(x), (32,))
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()  # BatchNorm with the statistics that it has gathered
    return F.cross_entropy(model(x), y).item()


before = train(norm=False)
print("\nThe same again with BatchNorm:\n")
after = train(norm=True)
print(f"\nloss: {before:.3f} sick, {after:.3f} cured")
