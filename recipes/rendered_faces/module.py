"""A small CNN that learns attributes of rendered faces, and the faces to learn from."""

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MultilabelAccuracy

from lightning_interp import RenderedFaces

ATTRIBUTES = ("lipstick", "makeup", "blond", "smile", "glasses", "hat", "outdoors")


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class FaceAttributes(LightningModule):
    """Says of a 64 x 64 picture which attributes the face has.

    ``features.1``, ``features.3`` and ``features.4`` are the layers worth dissecting: maps of 32 x 32, 16 x 16 and
    16 x 16 after a ReLU.
    """

    def __init__(self, width: int = 32, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.features = nn.Sequential(
            nn.Sequential(*block(3, width), nn.MaxPool2d(2)),
            block(width, 2 * width),
            nn.MaxPool2d(2),
            block(2 * width, 3 * width),
            block(3 * width, 4 * width),
        )
        # The maximum lets one place decide, as lips or glasses do; a mean would dilute what is small.
        self.head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4 * width, len(ATTRIBUTES)))
        self.accuracy = MultilabelAccuracy(len(ATTRIBUTES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, attributes = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self(images), attributes)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, attributes = batch
        logits = self(images)
        self.accuracy(logits, attributes.int())
        self.log("val_loss", nn.functional.binary_cross_entropy_with_logits(logits, attributes), prog_bar=True)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"], weight_decay=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Faces(LightningDataModule):
    """Rendered faces to train on and others to validate on; the probe set uses a third seed."""

    def __init__(self, num_train: int = 4000, num_val: int = 500, batch_size: int = 64, seed: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.train = RenderedFaces(num_train, seed=seed).classification(ATTRIBUTES)
        self.val = RenderedFaces(num_val, seed=seed + 1).classification(ATTRIBUTES)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.hparams["batch_size"], shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=self.hparams["batch_size"])

    test_dataloader = val_dataloader
