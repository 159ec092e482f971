"""A small classifier and its data, for both of Lightning's packages."""

import importlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_module(package="pytorch_lightning", *, validation=True, log_in_forward=False):
    pl = importlib.import_module(package)

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(inplace=True),
                nn.Dropout2d(0.2),
                nn.Conv2d(8, 6, 3, stride=2, padding=1),
                nn.ReLU(inplace=True),
            )
            self.head = nn.Linear(6, 2)
            self.losses = []

        def forward(self, x):
            if log_in_forward:
                self.log("inside", x.mean())
            return self.head(self.features(x).mean((2, 3)))

        def training_step(self, batch, batch_idx):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    if validation:

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        Classifier.validation_step = validation_step
    return Classifier()


def loader(num=24, batch_size=6, shuffle=True, workers=0):
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.rand(num, 3, 24, 24, generator=generator), torch.arange(num) % 2)
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0)


def make_trainer(path, package="pytorch_lightning", **options):
    pl = importlib.import_module(package)
    options = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "default_root_dir": path,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    } | options
    return pl.Trainer(**options)
