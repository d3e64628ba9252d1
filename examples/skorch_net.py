"""Trains a sick digits classifier with skorch, which needs nothing of its own: `netdoctor.watch` is all.

pip install netdoctor-torch skorch
python examples/skorch_net.py
"""

import torch
from skorch import NeuralNetClassifier
from torch import nn

import netdoctor
from netdoctor.demo import DeepClassifier, digits

torch.set_num_threads(1)
torch.manual_seed(0)
x, y = digits()
net = NeuralNetClassifier(
    DeepClassifier, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=3e-3, batch_size=64, max_epochs=3
)
net.initialize()  # makes the model, which `fit` would make anew

with netdoctor.watch(net.module_):
    net.partial_fit(x.numpy(), y.numpy())
