"""Trains a sick digits classifier with Accelerate, which needs nothing of its own: `netdoctor.watch` is all.

pip install netdoctor-torch accelerate
python examples/accelerate_loop.py
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import netdoctor
from netdoctor.demo import DeepClassifier, digits

torch.set_num_threads(1)
torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = DeepClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(TensorDataset(*digits()), 32, shuffle=True))

with netdoctor.watch(model):
    for _ in range(2):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
