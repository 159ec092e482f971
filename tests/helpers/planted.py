"""A network whose number of detectors in every epoch is known beforehand."""

import importlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import NetworkDissection
from lightning_interp.data.probe import Concept, Labels, ProbeSet

MONITOR = "dissect/layer/unique_detectors"


class ChannelProbe(ProbeSet):
    """Each of three channels shows one concept, and nothing else."""

    def __init__(self, images=12):
        self.images = images
        self.concepts = (Concept(1, "red", "color"), Concept(2, "green", "color"), Concept(3, "cat", "object"))
        self.mask_size = (8, 8)

    def __len__(self):
        return self.images

    def image(self, index):
        coarse = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(index))
        bright = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
        # Brighter above one half, so that the thresholds fall between what is shown and what is not.
        return (bright > 0.6) * (0.5 + bright / 2)

    def labels(self, index):
        shown = (self.image(index) > 0).long()
        color = torch.stack([shown[0] * 1, shown[1] * 2])
        return Labels({"color": color, "object": shown[2] * 3})


def make_planted(plan, package="pytorch_lightning"):
    """In epoch ``e``, the first ``plan[e]`` of three units look at one channel each, the others are dead."""
    pl = importlib.import_module(package)

    class Planted(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1, bias=False).requires_grad_(False)
            self.head = nn.Linear(3, 2)
            self.look_at(0)

        def look_at(self, units):
            self.layer.weight.data = torch.diag((torch.arange(3) < units).float())[:, :, None, None]

        def on_train_epoch_start(self):
            self.look_at(plan[self.current_epoch])

        def forward(self, x):
            return self.head(self.layer(x).mean((2, 3)))

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    return Planted()


def planted_loader():
    return DataLoader(TensorDataset(torch.rand(4, 3, 8, 8), torch.arange(4) % 2), batch_size=4)


def planted_dissection(**options):
    return NetworkDissection(ChannelProbe(), ["layer"], **({"quantile": 0.3, "batch_size": 5, "top_k": 2} | options))
