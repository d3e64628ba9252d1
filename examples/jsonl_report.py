"""Trains a sick digits classifier, and reads the findings from the JSON lines as a script would.

    python examples/jsonl_report.py

The lines are described in docs/jsonl.md.
"""

import json

import torch
import torch.nn.functional as F

import netdoctor
from netdoctor.demo import DeepClassifier, digits

torch.set_num_threads(1)
torch.manual_seed(0)
x, y = digits()
model = DeepClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

with netdoctor.watch(model, reporters=["jsonl"]):
    for _ in range(100):
        batch = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

with open("netdoctor.jsonl", encoding="utf-8") as lines:
    for line in lines:
        news = json.loads(line)
        if news["event"] == "raised":
            finding = news["finding"]
            print(f"step {news['step']}: {finding['severity']} {finding['rule']}")
            print(f"    {finding['remedies'][0]['action']}")
