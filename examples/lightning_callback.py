"""Trains a sick digits classifier in Lightning, watched by a callback, and shows it in TensorBoard.

    pip install "netdoctor-torch[lightning,tensorboard]"
    python examples/lightning_callback.py

What the trainer's logger gets, and the HTML report, lie below ``lightning_logs/``.
"""

from typing import Any

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from netdoctor.demo import DeepClassifier, digits
from netdoctor_lightning import NetDoctorCallback


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = DeepClassifier()

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = F.cross_entropy(self.classifier(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", F.cross_entropy(self.classifier(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    lightning.seed_everything(0)
    x, y = digits()
    train, val = TensorDataset(x[300:], y[300:]), TensorDataset(x[:300], y[:300])
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=TensorBoardLogger("."),
        callbacks=[NetDoctorCallback()],
        enable_progress_bar=False,
    )
    trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(val, 300))
    print(f"Written to {trainer.log_dir}")
