"""Train a small VAE-GAN on rendered faces; its encoder's maps are for the explanatory graph."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from torchvision.utils import save_image

from recipes.vae_gan.module import DEVIATION, LAYERS, MEAN, VAEGAN, FacePictures, save_encoder

# By column of the table, what is logged.
COLUMNS = {
    "error": "val_error",
    "mean image's": "val_error_mean_image",
    "discriminator's loss": "discriminator_loss_epoch",
    "faces taken for faces": "taken_for_faces/faces_epoch",
    "rebuilt": "taken_for_faces/rebuilt_epoch",
    "sampled": "taken_for_faces/sampled_epoch",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    start, used = time.perf_counter(), time.process_time()
    seed_everything(0)
    data = FacePictures(options.faces, max(options.faces // 8, 1))
    trainer = Trainer(
        accelerator=options.accelerator,
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.runs, name="vae_gan"),
        callbacks=[Epochs()],
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    net = VAEGAN()
    trainer.fit(net, data)
    log = Path(trainer.log_dir)
    save_encoder(net.encoder, log / "encoder.safetensors")
    draw(net, data, log / "faces.png")
    print(f"\nEncoder, with maps {', '.join(LAYERS)}: {log / 'encoder.safetensors'}")
    print(f"Faces, rebuilt, and drawn from random codes: {log / 'faces.png'}")
    print(f"In all: {time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--faces", type=int, default=2000, help="faces to train on")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the TensorBoard log")
    parser.add_argument("--accelerator", default="auto")
    return parser.parse_args(args)


class Epochs(Callback):
    """Prints a line after each epoch; a discriminator that tells nothing has a loss of 0.69 and says 0.5 of all."""

    def on_train_start(self, trainer: Trainer, pl_module: VAEGAN) -> None:
        print("epoch  " + "  ".join(COLUMNS), flush=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: VAEGAN) -> None:
        cells = [f"{float(trainer.callback_metrics[tag]):.4f}".rjust(len(name)) for name, tag in COLUMNS.items()]
        print(f"{trainer.current_epoch:5}  " + "  ".join(cells), flush=True)


def draw(net: VAEGAN, data: FacePictures, path: Path, count: int = 8) -> None:
    """Rows of validation faces, the same rebuilt, and faces drawn from random codes."""
    net.eval().cpu()
    faces = torch.stack([data.val[i][0] for i in range(min(count, len(data.val)))])
    with torch.no_grad():
        codes = torch.randn(len(faces), net.hparams["latent"], generator=torch.Generator().manual_seed(0))
        rows = torch.cat([faces, net(faces), net.decoder(codes)])
    save_image((rows * DEVIATION + MEAN).clamp(0, 1), path, nrow=len(faces))


if __name__ == "__main__":
    main()
