"""Rendered faces whose make-up goes with lipstick, and the network of the other recipe to learn from them."""

from functools import cached_property

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import RenderedFaces
from lightning_interp.data import GroupBalancedSampler, PartRegions
from recipes.rendered_faces.module import ATTRIBUTES, FaceAttributes

TARGET, REGION, CONTEXT, PLACE = "lipstick", "mouth", "makeup", "eyes"


def lipstick_logits(logits: Tensor) -> Tensor:
    """``(B,)``: the output that the mouth should decide."""
    return logits[:, ATTRIBUTES.index(TARGET)]


class LipstickNet(FaceAttributes):
    """The same network, for batches that hold masks too."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, attributes, _mouth, _eyes = batch
        return super().training_step((images, attributes), batch_idx)


class LipstickFaces(LightningDataModule):
    """Faces on which make-up and lipstick are correlated by ``rho``, others as biased, and others that are not.

    A training batch is images, attributes, and masks of mouth and eyes. ``balanced`` draws the four groups (lipstick,
    make-up) equally often, and so the few faces with one of the two many times over.
    """

    def __init__(
        self,
        num_train: int = 4000,
        num_val: int = 1000,
        batch_size: int = 64,
        seed: int = 1,
        rho: float = 0.95,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.train = RenderedFaces(num_train, seed=seed, correlations={CONTEXT: rho})
        self.biased = self.train.split(seed + 1, num_images=num_val)
        self.unbiased = self.train.split(seed + 2, num_images=num_val, correlations={})

    def train_dataloader(self) -> DataLoader:
        values = self.train.records.values
        groups = torch.stack([values[TARGET], values[CONTEXT]], dim=1).long()
        sampler = GroupBalancedSampler(groups) if self.hparams["balanced"] else None
        size = self.hparams["batch_size"]
        return DataLoader(self.tensors, batch_size=size, shuffle=sampler is None, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.biased.classification(ATTRIBUTES), batch_size=self.hparams["batch_size"])

    @cached_property
    def tensors(self) -> TensorDataset:
        """Images, attributes, and masks of mouth and eyes: rendered once for all epochs and trainings."""
        images, attributes = zip(*self.train.classification(ATTRIBUTES), strict=True)
        regions = PartRegions(self.train, [REGION, PLACE])
        masks = [regions(self.train[index]) for index in range(len(self.train))]
        columns = [images, attributes, *([mask[name] for mask in masks] for name in (REGION, PLACE))]
        return TensorDataset(*(torch.stack(list(column)) for column in columns))
