"""Trains a sick digits classifier and shows it in TensorBoard.

python examples/tensorboard_report.py
tensorboard --logdir runs
"""

import torch
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter

import netdoctor
from netdoctor.demo import DeepClassifier, digits
from netdoctor_tensorboard import TensorBoardReporter

torch.set_num_threads(1)
torch.manual_seed(0)
x, y = digits()
model = DeepClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

with SummaryWriter("runs/digits") as writer, netdoctor.watch(model, reporters=[TensorBoardReporter(writer)]):
    for step in range(100):
        batch = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss, step)
print(f"Written to {writer.log_dir}")
