"""A regression on few patients overfits; early stopping keeps the weights of the best validation loss."""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn

import netdoctor

torch.set_num_threads(1)
PATIENCE = 10  # validation passes without a better one


def train(stop_early: bool) -> float:
    torch.manual_seed(0)
    features, progression = load_diabetes(return_X_y=True)
    x, y = (torch.tensor(values, dtype=torch.float32) for values in (features, progression[:, None]))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    x, y, x_val, y_val = x[:300], y[:300], x[300:], y[300:]
    model = nn.Sequential(nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, best_weights, since = float("inf"), copy.deepcopy(model.state_dict()), 0
    with netdoctor.watch(model, every=5):
        for step in range(600):
            batch = torch.randint(len(x), (32,))
            loss = F.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 9:
                with torch.no_grad():
                    validation = F.mse_loss(model(x_val), y_val).item()
                since += 1
                if validation < best:
                    best, best_weights, since = validation, copy.deepcopy(model.state_dict()), 0
                if stop_early and since == PATIENCE:
                    print(f"stopped at step {step + 1}: no better validation loss in {PATIENCE} passes")
                    break
    if stop_early:
        model.load_state_dict(best_weights)
    with torch.no_grad():
        return F.mse_loss(model(x_val), y_val).item()


before = train(stop_early=False)
print("\nThe same again with early stopping:\n")
after = train(stop_early=True)
print(f"\nvalidation loss: {before:.3f} sick, {after:.3f} cured")
