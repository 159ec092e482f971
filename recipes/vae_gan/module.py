"""A small VAE-GAN that learns to draw faces, and the faces to learn from."""

from itertools import pairwise
from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import RenderedFaces
from lightning_interp.results.files import read_safetensors, write_safetensors

SIZE = 48
LAYERS = ("maps.0", "maps.1", "maps.2")
# Of the rendered faces: images in [0, 1] have this mean and are divided by this deviation.
MEAN, DEVIATION = 0.5, 0.25


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Halves the size."""
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)


class Encoder(nn.Module):
    """From images `(B, 3, 48, 48)` to the means and log-variances `(B, latent)` of what they are drawn from.

    `maps.0`, `maps.1` and `maps.2` give maps of 24 x 24, 12 x 12 and 6 x 6 after a ReLU, for the explanatory graph.
    """

    def __init__(self, width: int = 16, latent: int = 48) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        self.maps = nn.Sequential(
            *(nn.Sequential(convolution(a, b), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1] * (SIZE // 8) ** 2, 2 * latent)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.head(self.maps(images).flatten(1)).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """From `(B, latent)` to images `(B, 3, 48, 48)`.

    Codes of faces and codes drawn at random differ in their statistics, which batches must not share: hence groups.
    """

    def __init__(self, width: int = 16, latent: int = 48) -> None:
        super().__init__()
        widths = (4 * width, 2 * width, width)
        self.start = nn.Sequential(
            nn.Linear(latent, widths[0] * (SIZE // 8) ** 2),
            nn.Unflatten(1, (widths[0], SIZE // 8, SIZE // 8)),
            nn.GroupNorm(4, widths[0]),
            nn.ReLU(),
        )
        self.grow = nn.Sequential(
            *(
                nn.Sequential(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.GroupNorm(4, b), nn.ReLU())
                for a, b in pairwise(widths)
            ),
            nn.ConvTranspose2d(widths[-1], 3, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, code: Tensor) -> Tensor:
        return self.grow(self.start(code)) * (MEAN / DEVIATION)


class Discriminator(nn.Module):
    """Whether images are of the data, `(B,)` logits, and the maps `(B, C, 12, 12)` by which they are compared."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.near = nn.Sequential(
            *(convolution(3, width), nn.LeakyReLU(0.2), convolution(width, 2 * width), nn.LeakyReLU(0.2))
        )
        self.far = nn.Sequential(
            *(convolution(2 * width, 4 * width), nn.LeakyReLU(0.2), nn.Flatten()),
            nn.Linear(4 * width * (SIZE // 8) ** 2, 1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.near(images)
        return self.far(maps)[:, 0], maps


class VAEGAN(LightningModule):
    """Larsen, Sonderby, Larochelle and Winther, "Autoencoding beyond pixels using a learned similarity metric" (2016).

    The encoder learns from the distance of a face to its reconstruction in the discriminator's maps and from the
    divergence of its codes from a normal distribution; the decoder from the same distance and from deceiving the
    discriminator with reconstructions and with faces drawn from random codes; the discriminator from telling both from
    faces (Algorithm 1). This one's own is a share of the pixels in the distance: in a few minutes a discriminator does
    not learn to see all of them, and what it does not see is filled with patterns.

    Args:
        width: Channels of the first layer, a multiple of four; the next ones have twice and four times as many.
        latent: Numbers in a code.
        pixels: Weight of the distance in pixels beside that in the maps; 0 as published.
        prior: Weight of the divergence beside the distance; both are means, over a code's numbers and over the maps.
        deceit: Weight of deceiving the discriminator beside the distance, 1 / gamma of the paper.
        lr: Learning rate of all three.
    """

    def __init__(
        self,
        width: int = 16,
        latent: int = 48,
        pixels: float = 1.0,
        prior: float = 0.02,
        deceit: float = 0.02,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.encoder, self.decoder = Encoder(width, latent), Decoder(width, latent)
        self.discriminator = Discriminator(width)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions, drawn from the means of the codes."""
        return self.decoder(self.encoder(images)[0])

    def setup(self, stage: str) -> None:
        self.mean_image = self.trainer.datamodule.train.tensors[0].mean(0)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (images,) = batch
        painter, judge = self.optimizers()
        mean, log_variance = self.encoder(images)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        drawn = self.decoder(code), self.decoder(torch.randn_like(code))
        self.judge_learns(judge, images, [each.detach() for each in drawn])

        (rebuilt, maps), (sampled, _) = map(self.discriminator, drawn)
        with torch.no_grad():
            _, target = self.discriminator(images)
        distance = mse_loss(maps, target) + self.hparams["pixels"] * mse_loss(drawn[0], images)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        deceit = truth(rebuilt, 1) + truth(sampled, 1)
        painter.zero_grad()
        # Each its own loss, as published: the encoder is not to deceive.
        for part, loss in (
            (self.encoder, distance + self.hparams["prior"] * divergence),
            (self.decoder, distance + self.hparams["deceit"] * deceit),
        ):
            self.manual_backward(loss, retain_graph=part is self.encoder, inputs=list(part.parameters()))
        painter.step()
        self.log_dict({"distance": distance, "divergence": divergence}, prog_bar=True)

    def judge_learns(self, judge: LightningOptimizer, images: Tensor, drawn: list[Tensor]) -> None:
        """A step of the discriminator, which is shown as many faces as drawn ones by weight."""
        told = [self.discriminator(each)[0] for each in (images, *drawn)]
        loss = truth(told[0], 1) / 2 + (truth(told[1], 0) + truth(told[2], 0)) / 4
        judge.zero_grad()
        self.manual_backward(loss)
        judge.step()
        self.log("discriminator_loss", loss, on_epoch=True)
        for name, logits in zip(("faces", "rebuilt", "sampled"), told, strict=True):
            self.log(f"taken_for_faces/{name}", logits.sigmoid().mean(), on_epoch=True)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (images,) = batch
        # Squared errors of pixels in [0, 1].
        self.log("val_error", mse_loss(self(images), images) * DEVIATION**2, prog_bar=True)
        blind = self.mean_image.to(images).expand_as(images)
        self.log("val_error_mean_image", mse_loss(blind, images) * DEVIATION**2)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        painter = [*self.encoder.parameters(), *self.decoder.parameters()]
        return [
            torch.optim.Adam(p, self.hparams["lr"], (0.5, 0.999)) for p in (painter, self.discriminator.parameters())
        ]


def truth(logits: Tensor, answer: float) -> Tensor:
    """Cross-entropy of logits for images that all are (1) or are not (0) of the data; ln 2 if they tell nothing."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, answer))


class FacePictures(LightningDataModule):
    """Faces of 48 x 48 to learn from and others to validate on, normalised; rendered once."""

    def __init__(self, num_train: int = 2000, num_val: int = 250, batch_size: int = 32, seed: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.train, self.val = (pictures(number, seed + i) for i, number in enumerate((num_train, num_val)))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.hparams["batch_size"], shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=self.hparams["batch_size"])


def pictures(number: int, seed: int) -> TensorDataset:
    faces = RenderedFaces(number, size=SIZE, seed=seed)
    return TensorDataset(torch.stack([prepare(faces.image(i)) for i in range(number)]))


def prepare(image: Tensor) -> Tensor:
    """A picture of 0 to 255 as the networks take it."""
    return (image.float() / 255 - MEAN) / DEVIATION


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Write the encoder's weights as safetensors."""
    write_safetensors(path, {name: value.cpu().numpy() for name, value in encoder.state_dict().items()})


def load_encoder(path: Path) -> Encoder:
    """Read what `save_encoder` wrote; in eval mode, on the CPU."""
    state = {name: torch.from_numpy(value) for name, value in read_safetensors(path).items()}
    width, latent = len(state["maps.0.0.weight"]), len(state["head.bias"]) // 2
    encoder = Encoder(width, latent)
    encoder.load_state_dict(state)
    return encoder.eval()
