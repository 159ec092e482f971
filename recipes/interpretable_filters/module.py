"""Rendered faces, and a small CNN with fully connected layers on top, as the interpretable CNNs of 2018 had them."""

from pytorch_lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import RenderedFaces
from recipes.rendered_faces.module import ATTRIBUTES, FaceAttributes

SIZE = 48
LAYER = "features.4"


class PartNet(FaceAttributes):
    """Says of a 48 x 48 picture which attributes the face has; ``features.4`` gives 12 x 12 maps after a ReLU.

    Under a maximum over the whole map, the head of `FaceAttributes`, a filter need not cover the part that it is about:
    one value at its rim will do. Here the maxima are over fields of 4 x 4, and fully connected layers see all of them.
    """

    def __init__(self, width: int = 24, hidden: int = 64, lr: float = 3e-3) -> None:
        super().__init__(width, lr)
        self.save_hyperparameters()
        fields = (SIZE // 16) ** 2
        self.head = nn.Sequential(
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(4 * width * fields, hidden),
            nn.ReLU(),
            nn.Linear(hidden, len(ATTRIBUTES)),
        )


class PartFaces(LightningDataModule):
    """Faces of 48 x 48 to train on and others to validate on; the probe set has a third seed."""

    def __init__(self, num_train: int = 4000, num_val: int = 1000, batch_size: int = 64, seed: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.train = RenderedFaces(num_train, size=SIZE, seed=seed).classification(ATTRIBUTES)
        self.val = RenderedFaces(num_val, size=SIZE, seed=seed + 1).classification(ATTRIBUTES)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.hparams["batch_size"], shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=200)

    test_dataloader = val_dataloader
