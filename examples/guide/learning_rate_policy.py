"""A constant learning rate stops at the noise of the batches; a decaying one goes on."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

import netdoctor

torch.set_num_threads(1)
STEPS = 600


def train(decay: bool) -> float:
    torch.manual_seed(0)
    x, truth = torch.randn(2000, 10), torch.randn(10, 1)
    y = x @ truth + 2 * torch.randn(2000, 1)  # a target with noise of variance 4
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.07)
    policy: LRScheduler | None = CosineAnnealingLR(optimizer, STEPS) if decay else None
    with netdoctor.watch(model, every=5):
        for _ in range(STEPS):
            batch = torch.randint(len(x), (8,))
            loss = F.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if policy is not None:
                policy.step()
    return F.mse_loss(model(x), x @ truth).item()


before = train(decay=False)
print("\nThe same again with cosine decay:\n")
after = train(decay=True)
print(f"\nloss without the noise: {before:.3f} sick, {after:.3f} cured")
