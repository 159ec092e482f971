"""A pretrained backbone that learns the categories of photos whose parts are known."""

import torch
import torchvision
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.classification import MulticlassAccuracy

from lightning_interp import AnimalPart, DatasetError
from lightning_interp.data.readers.part_photos import PartPhotos
from recipes.pretrained_photos.module import LITE0, load_network, normalization


def load_backbone(network: str, weights: str | None = None) -> nn.Sequential:
    """The layers of an image classifier up to its last maps, ``(B, F, H, W)`` after a ReLU.

    Args:
        network: `efficientnet_lite0`, a torchvision network with `features` (`mobilenet_v2`, `vgg16`, ...) or a
            ResNet.
        weights: As for `load_network`.
    """
    model = load_network(network, weights)
    if network == LITE0:
        blocks = [model._conv_stem, model._bn0, nn.ReLU6(), *model._blocks, model._conv_head, model._bn1, nn.ReLU6()]
        return nn.Sequential(*blocks)
    if isinstance(model, torchvision.models.ResNet):
        return nn.Sequential(*list(model.children())[:-2])
    return model.features


class PhotoCategories(LightningModule):
    """Fine-tunes a pretrained network to name the category of a photo.

    `features` is the backbone; its last layer gives the maps that the head averages.

    Args:
        num_categories: Categories of the data.
        network: See `load_backbone`.
        weights: See `load_backbone`.
        lr: Learning rate of the head; the backbone's is a tenth of it.
    """

    def __init__(self, num_categories: int, network: str = LITE0, weights: str | None = None, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.features = load_backbone(network, weights)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(num_categories))
        with torch.no_grad():
            self.eval()(torch.zeros(1, 3, 64, 64))
        self.train()
        self.accuracy = MulticlassAccuracy(num_categories, average="micro")

    def forward(self, photos: Tensor) -> Tensor:
        return self.head(self.features(photos))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.accuracy(self(batch[0]), batch[1])
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rate = self.hparams["lr"]
        backbone = {"params": self.features.parameters(), "lr": rate / 10}
        return torch.optim.AdamW([backbone, {"params": self.head.parameters(), "lr": rate}], weight_decay=1e-2)


class Categories(Dataset):
    """Photos and the number of their category."""

    def __init__(self, photos: PartPhotos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        mean, std = (torch.tensor(values)[:, None, None] for values in self.photos.normalize)
        image = (self.photos.image(index).float() / 255 - mean) / std
        return image, self.photos.facts(index)["attributes"]["category"]


class PartPhotosData(LightningDataModule):
    """An `AnimalPart` folder; every fifth photo is kept for validation.

    Args:
        root: The folder.
        network: The network that will see the photos, for its normalisation.
        batch_size: Photos a step.
        num_workers: Loader processes.
    """

    def __init__(self, root: str, network: str = LITE0, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.photos = AnimalPart(root, normalize=normalization(network))
        if (kept := len(self.photos) - len(self.photos) // 5) < batch_size:
            raise DatasetError(f"{kept} photos to train on are fewer than a batch; give a batch size of at most {kept}")
        self.categories = Categories(self.photos)

    def _loader(self, held_out: bool) -> DataLoader:
        chosen = [i for i in range(len(self.categories)) if (i % 5 == 4) == held_out]
        return DataLoader(
            Subset(self.categories, chosen),
            batch_size=self.hparams["batch_size"],
            num_workers=self.hparams["num_workers"],
            shuffle=not held_out,
            drop_last=not held_out,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(held_out=False)

    def val_dataloader(self) -> DataLoader:
        return self._loader(held_out=True)

    test_dataloader = val_dataloader
