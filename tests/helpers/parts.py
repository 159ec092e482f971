"""Spots that move, and filters of which it is known what they do beside them."""

import importlib
import math

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.errors import DatasetError

SIDE = 16
FIXED = (5, 7)  # row and column


class SpotProbe(ProbeSet):
    """A red spot and, on all but each fourth image, a green one; each is a landmark and a part of two pixels."""

    def __init__(self, images=12, categories=1, broken=(), side=SIDE):
        self.images, self.num_categories, self.broken, self.side = images, categories, broken, side
        self.concepts = (Concept(4, "wall", "object"), Concept(7, "red spot", "part"), Concept(9, "green spot", "part"))
        self.mask_size = (side, side)

    def __len__(self):
        return self.images

    def places(self, index):
        """By name, (x, y)."""
        draw = torch.randint(1, self.side - 2, (4,), generator=torch.Generator().manual_seed(index)).tolist()
        places = {"red": (draw[0], draw[1]), "green": (draw[2], draw[3])}
        return {name: at for name, at in places.items() if name == "red" or index % 4}

    def image(self, index):
        if index in self.broken:
            raise DatasetError(f"photo_{index}.jpg: cannot be decoded")
        image = torch.zeros(3, self.side, self.side)
        for name, (x, y) in self.places(index).items():
            # The brighter, the lower the index: top images are known.
            image[("red", "green").index(name), y, x] = 1 - index / 1000
        return image

    def labels(self, index):
        planes = torch.zeros(2, self.side, self.side, dtype=torch.int64)
        for name, (x, y) in self.places(index).items():
            which = ("red", "green").index(name)
            planes[which, y, x : x + 2] = (7, 9)[which]
        return Labels({"part": planes, "object": torch.full((self.side, self.side), 4)})

    def facts(self, index):
        facts = {"part_landmarks": self.places(index)}
        return facts | ({"attributes": {"category": index % self.num_categories}} if self.num_categories > 1 else {})

    def describe(self):
        return super().describe() | {"categories": self.num_categories, "broken": self.broken}


class Filters(nn.Module):
    """Filter 0 peaks on the red spot, 1 on the green one, 2 at one place always, 3 is dead."""

    def forward(self, x):
        # Times 0, so that each value has a pixel that it depends on.
        fixed = 0 * x[:, 0]
        fixed[:, FIXED[0], FIXED[1]] = 1
        return torch.stack([x[:, 0], x[:, 1], fixed, 0 * fixed], 1)


def spot_model():
    return nn.Sequential(Filters(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def fixed_deviation(probe, name="red", images=None):
    """Instability of a peak at the fixed place."""
    points = [probe.places(i).get(name) for i in (range(len(probe)) if images is None else images)]
    distances = [math.dist(p, (FIXED[1], FIXED[0])) / math.hypot(probe.side, probe.side) for p in points if p]
    mean = sum(distances) / len(distances)
    return math.sqrt(sum((d - mean) ** 2 for d in distances) / (len(distances) - 1))


def make_spotter(plan, package="pytorch_lightning"):
    """In epoch ``e``, the first ``plan[e]`` of two filters follow the red spot, the others stay at one place."""
    pl = importlib.import_module(package)

    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.following = 0

        def forward(self, x):
            maps = Filters()(x)
            return torch.stack([maps[:, 0 if f < self.following else 2] for f in range(2)], 1)

    class Spotter(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.head = Turning(), nn.Linear(2, 2)

        def on_train_epoch_start(self):
            self.layer.following = plan[self.current_epoch]

        def forward(self, x):
            return self.head(self.layer(x).mean((2, 3)))

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Spotter()


def spot_loader():
    return DataLoader(TensorDataset(torch.rand(4, 3, SIDE, SIDE), torch.arange(4) % 2), batch_size=4)
