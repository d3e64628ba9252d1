"""Two hundred digits, one label in five wrong, are learned by heart; shifted by up to a pixel they are not."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.demo import digits

torch.set_num_threads(1)


def shifted(images: Tensor) -> Tensor:
    """Each batch moved by -1, 0 or 1 pixel in both directions."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return images.reshape(-1, 8, 8).roll((down, right), (1, 2)).flatten(1)


def train(augment: bool) -> float:
    torch.manual_seed(0)
    x, y = digits()
    x, y, x_val, y_val = x[:200], y[:200], x[200:], y[200:]
    y = torch.where(torch.rand(200) < 0.2, torch.randint(10, (200,)), y)  # labelled in a hurry
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with netdoctor.watch(model, every=5):
        for step in range(600):
            batch = torch.randint(len(x), (32,))
            images = shifted(x[batch]) if augment else x[batch]
            loss = F.cross_entropy(model(images), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 9:
                with torch.no_grad():
                    validation = F.cross_entropy(model(x_val), y_val)
    return validation.item()


before = train(augment=False)
print("\nThe same again with shifted images:\n")
after = train(augment=True)
print(f"\nvalidation loss: {before:.3f} sick, {after:.3f} cured")
