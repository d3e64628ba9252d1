"""Trains a sick digits classifier, logs it to MLflow, and asks MLflow which runs are ill.

    python examples/mlflow_report.py

The runs are in ``mlflow.db`` and ``mlruns/`` of the working directory.
"""

import mlflow
import torch
import torch.nn.functional as F

import netdoctor
from netdoctor.demo import DeepClassifier, digits

torch.set_num_threads(1)
torch.manual_seed(0)
x, y = digits()
model = DeepClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run(), netdoctor.watch(model, reporters=["console", "mlflow"]):
    for step in range(100):
        batch = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mlflow.log_metric("loss", loss.item(), step=step)

for ill in mlflow.MlflowClient().search_runs(["0"], 'metrics."netdoctor/errors" > 0'):
    print(f"{ill.info.run_name}: {ill.data.tags['netdoctor.worst']}")
