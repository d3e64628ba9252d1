"""Trains a sick digits classifier and shows it in a W&B run, offline: no account is needed.

    python examples/wandb_report.py

The run lies below ``wandb/`` in the working directory; ``wandb sync`` sends it to your account.
"""

import torch
import torch.nn.functional as F
import wandb

import netdoctor
from netdoctor.demo import DeepClassifier, digits

torch.set_num_threads(1)
torch.manual_seed(0)
x, y = digits()
model = DeepClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

with (
    wandb.init(project="netdoctor-digits", mode="offline") as run,
    netdoctor.watch(model, reporters=["console", "wandb"]),
):
    for _ in range(100):
        batch = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log({"loss": loss.item()})
    print(f"Written to {run.dir}")
