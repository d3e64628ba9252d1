"""Shows in MLflow what netdoctor sees: `netdoctor.watch(model, reporters=["console", "mlflow"])`."""

from netdoctor_mlflow.reporter import MLflowReporter

__all__ = ["MLflowReporter"]
