"""A regression on few patients overfits; early stopping goes back to the weights of the best validation loss."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn

import netdoctor

torch.set_num_threads(1)
PATIENCE = 100  # steps without a better validation loss


def train(stop_early: bool) -> float:
    torch.manual_seed(0)
    features, progression = load_diabetes(return_X_y=True)
    x, y = (torch.tensor(values, dtype=torch.float32) for values in (features, progression[:, None]))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    x, y, x_val, y_val = x[:300], y[:300], x[300:], y[300:]
    model = nn.Sequential(nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with tempfile.TemporaryDirectory() as folder, netdoctor.watch(model, every=5) as monitor:
        best = monitor.keep_best(Path(folder) / "best.pt")
        for step in range(1, 601):
            batch = torch.randint(len(x), (32,))
            loss = F.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                with torch.no_grad():
                    F.mse_loss(model(x_val), y_val)  # netdoctor reads it
            if stop_early and step - best.step > PATIENCE:
                print(f"stopped at step {step}, back to step {best.step}")
                model.load_state_dict(torch.load(best.path))
                break
    with torch.no_grad():
        return F.mse_loss(model(x_val), y_val).item()


before = train(stop_early=False)
print("\nThe same again with early stopping:\n")
after = train(stop_early=True)
print(f"\nvalidation loss: {before:.3f} sick, {after:.3f} cured")
