"""Shows in TensorBoard what netdoctor sees: `netdoctor.watch(model, reporters=["console", "tensorboard"])`."""

from netdoctor_tensorboard.reporter import TensorBoardReporter

__all__ = ["TensorBoardReporter"]
