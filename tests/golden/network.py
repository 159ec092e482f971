"""A tiny network in float64 whose weights are written out, and fixed data to train it on.

Maps are cast to float32 where a probe takes them; computed in float64 they come out the same to the last bit nearly
always, whatever the machine and the version of PyTorch.
"""

import json
from pathlib import Path

import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import RenderedFaces

WEIGHTS = Path(__file__).with_name("weights.json")
OUTPUTS = ("lipstick", "makeup", "blond")
LAYERS = ["features.3", "features.1"]  # the upper one first
SIZE = 32


class GoldenNet(nn.Module):
    """Says of a 32 x 32 face whether there is lipstick, make-up and blond hair; maps of 16 x 16 and 8 x 8.

    Args:
        outputs: How many of these it says.
    """

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, outputs)
        self.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Without a nonlinearity beyond the maximum, which lets one place decide.
        return self.head(self.features(images).amax((2, 3)))


class GoldenModule(pytorch_lightning.LightningModule):
    """The network, to be trained on batches of (images, attributes, mouth, eyes)."""

    def __init__(self) -> None:
        super().__init__()
        own = load_weights(GoldenNet())
        self.features, self.head = own.features, own.head

    forward = GoldenNet.forward

    def _loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch), batch_size=len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02)


class GoldenData(pytorch_lightning.LightningDataModule):
    """The same faces in the same order every epoch."""

    def train_dataloader(self):
        return face_loader()

    val_dataloader = train_dataloader


def load_weights(net):
    """Fill a network with the weights that are written out; of the head the rows that it has."""
    written = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in json.loads(WEIGHTS.read_text()).items()}
    own = net.state_dict()
    net.load_state_dict({name: written[name][: len(values)] for name, values in own.items()})
    return net


def golden_net(outputs=3):
    return load_weights(GoldenNet(outputs)).eval()


def faces(count=40, seed=1, **options):
    """Faces to probe with; by default of those that the network was trained on, so that there is something to find."""
    return RenderedFaces(count, size=SIZE, seed=seed, correlations={"makeup": 0.6, "blond": 0.2}, **options)


def face_tensors(count, seed=1):
    """Normalised images and attributes in float64, and masks of mouth and eyes."""
    own = faces(count, seed)
    numbers = {concept.name: concept.number for concept in own.concepts}
    planes = torch.stack([own.labels(index).planes["part"] for index in range(count)])
    images = (torch.stack([own.image(index) for index in range(count)]).double() / 255 - 0.5) / 0.25
    values = [[float(own.facts(index)["attributes"][name]) for name in OUTPUTS] for index in range(count)]
    mouth, eye = ((planes == numbers[name]).any(1) for name in ("mouth", "eye"))
    return images, torch.tensor(values, dtype=torch.float64), mouth, eye


def face_loader(count=24, batch_size=8):
    return DataLoader(TensorDataset(*face_tensors(count)), batch_size=batch_size)


def train_weights(steps=600):
    """Train the network and write its weights out, rounded; that they can be had again is not needed."""
    torch.manual_seed(0)
    net = GoldenNet()
    images, attributes, _, _ = face_tensors(512, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(steps):
        chosen = torch.arange(64) + 64 * step % 512
        loss = nn.functional.binary_cross_entropy_with_logits(net(images[chosen]), attributes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rounded = {name: (values * 1e4).round().div(1e4).tolist() for name, values in net.state_dict().items()}
    WEIGHTS.write_text(json.dumps(rounded) + "\n")
    return loss.item(), ((net(images) > 0) == attributes).double().mean(0)
