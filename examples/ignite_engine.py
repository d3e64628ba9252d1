"""Trains a sick digits classifier with Ignite, which needs nothing of its own: `netdoctor.watch` is all.

pip install netdoctor-torch pytorch-ignite
python examples/ignite_engine.py
"""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Loss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import netdoctor
from netdoctor.demo import DeepClassifier, digits

torch.set_num_threads(1)
torch.manual_seed(0)
x, y = digits()
train = DataLoader(TensorDataset(x[300:], y[300:]), 64, shuffle=True)
val = DataLoader(TensorDataset(x[:300], y[:300]), 300)
model, criterion = DeepClassifier(), nn.CrossEntropyLoss()
trainer = create_supervised_trainer(model, torch.optim.Adam(model.parameters(), lr=3e-3), criterion)
evaluator = create_supervised_evaluator(model, {"loss": Loss(criterion)})
trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(val))

with netdoctor.watch(model):
    trainer.run(train, max_epochs=3)
