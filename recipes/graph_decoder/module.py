"""A decoder that learns to draw images from the maps of one layer of a frozen network."""

from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from lightning_interp import RenderedFaces
from lightning_interp.data.probe import ProbeSet
from lightning_interp.methods.graph.decoder_files import save_decoder
from lightning_interp.methods.graph.up_convolution import UpConvolution
from lightning_interp.probing.checkpoint import load_checkpoint
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.runner import prepare
from lightning_interp.probing.tap import tap

# Images from which the scale of the filters and the mean image are taken.
SAMPLE = 512
# Largest share of the units in maps of which only the strongest responses are left, and that in validation.
MOST, FEW = 0.1, 0.01


class LayerDecoder(LightningModule):
    """Trains an up-convolution by the squared error of the pixels; the network stays as it is.

    Of half of the images it sees only the units with the strongest responses, a share between `fewest` and a tenth: the
    graph's valid patterns leave about so few, and a decoder draws badly from maps such as it has never seen.

    Args:
        network: The network, from images as the probe set normalises them.
        layer: Path of the layer in it, one that gives `(B, C, h, w)` maps.
        checkpoint: Weights of the network: a checkpoint of Lightning or a state dict. None for those that it has.
        width: Channels of the decoder's first layers.
        fewest: Smallest share of the units.
        lr: Highest learning rate.
    """

    def __init__(
        self,
        network: LightningModule,
        layer: str,
        checkpoint: str | None = None,
        width: int = 32,
        fewest: float = 0.003,
        lr: float = 4e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="network")
        if checkpoint is not None:
            load_checkpoint(network, Path(checkpoint))
        self.network = network.eval().requires_grad_(False)
        self.tapped = resolve_layers(network, [layer])

    @property
    def file(self) -> Path:
        """Where the decoder's weights are after training."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir) / "decoder.safetensors"

    def setup(self, stage: str) -> None:
        train = self.trainer.datamodule.train
        images = torch.stack([train.image(i) for i in range(min(SAMPLE, len(train)))])
        self.decoder = UpConvolution.for_maps(self.maps(images), pixels(images), self.hparams["width"])

    def maps(self, images: Tensor) -> Tensor:
        """Maps of the layer, `(B, C, h, w)`."""
        with torch.no_grad(), tap(self.tapped) as taps:
            self.network(prepare(images, self.network, self.trainer.datamodule.train.normalize))
            return taps.collect()[self.hparams["layer"]]

    def forward(self, images: Tensor) -> Tensor:
        """Images drawn from the maps of images."""
        return self.decoder(self.maps(images))

    def training_step(self, images: Tensor, batch_idx: int) -> Tensor:
        maps = self.maps(images)
        half = len(maps) // 2
        fewest = self.hparams["fewest"]
        shares = fewest * (MOST / fewest) ** torch.rand(half, device=maps.device)
        drawn = self.decoder(torch.cat([strongest(maps[:half], shares), maps[half:]]))
        loss = mse_loss(drawn, pixels(images))
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, images: Tensor, batch_idx: int) -> None:
        maps, target = self.maps(images), pixels(images)
        few = strongest(maps, torch.full((len(maps),), FEW, device=maps.device))
        drawn = {"whole": self.decoder(maps), "few": self.decoder(few), "nothing": self.decoder(torch.zeros_like(maps))}
        drawn["mean_image"] = self.decoder.mean_image.expand_as(target)
        self.log_dict({f"error/{name}": mse_loss(each, target) for name, each in drawn.items()}, prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.Adam(self.decoder.parameters(), self.hparams["lr"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero:
            save_decoder(self.decoder, self.file)


def pixels(images: Tensor) -> Tensor:
    """Images of a probe set in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def strongest(maps: Tensor, shares: Tensor) -> Tensor:
    """Maps without all but the strongest responses.

    Args:
        maps: `(B, C, h, w)`.
        shares: `(B,)`, share of each image's units that stays.
    """
    units = maps.flatten(1)
    kept = (shares * units.shape[1]).ceil().long()
    least = units.topk(int(kept.max()), dim=1).values.gather(1, kept[:, None] - 1)
    return maps * (maps >= least[:, :, None, None])


class Images(Dataset[Tensor]):
    """The images of a probe set."""

    def __init__(self, probe: ProbeSet) -> None:
        self.probe = probe

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Tensor:
        return self.probe.image(index)


class ProbeImages(LightningDataModule):
    """Images to train on and others to validate on; the graph's probe set should be a third one.

    Args:
        train: A probe set of images of one size; rendered faces if None.
        val: Likewise.
        batch_size: Images in a batch.
    """

    def __init__(self, train: ProbeSet | None = None, val: ProbeSet | None = None, batch_size: int = 32) -> None:
        super().__init__()
        self.train, self.val = train or RenderedFaces(1000, seed=1), val or RenderedFaces(250, seed=2)
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Images(self.train), batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Images(self.val), batch_size=self.batch_size)
