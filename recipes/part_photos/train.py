"""Filters of a pretrained network on photos with parts: as they are, and after fine-tuning with and without a loss."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import (
    Every,
    InterpError,
    InterpretableFilters,
    LocationInstability,
    PartInterpretability,
    measure_parts,
)
from lightning_interp.cli import show_progress
from recipes.interpretable_filters.tell import Figures, show
from recipes.interpretable_filters.train import LOSSES
from recipes.part_photos.module import LITE0, PartPhotosData, PhotoCategories

# The last maps of 14 x 14 and of 7 x 7 values; the loss is on the second.
LAYERS = {LITE0: ["features.13", "features.21"], "mobilenet_v2": ["features.13", "features.18"]}


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    start, used = time.perf_counter(), time.process_time()
    data = PartPhotosData(options.photos, options.network, options.batch_size)
    layers = options.layers or LAYERS.get(options.network, ["features"])
    loss = InterpretableFilters(
        layers[-1:], len(data.photos.classes), loss=options.loss, weight=options.weight, start_epoch=0
    )
    columns = {
        "pretrained" if options.weights or options.network == LITE0 else "untrained": raw(data, layers, options),
        "fine-tuned": fit("plain", data, layers, [], options),
        "with the loss": fit(options.loss, data, layers, [loss], options),
    }
    for layer in layers:
        print(f"\n{layer}\n{show(columns, layer)}")
    print(f"\nTensorBoard: .venv/bin/tensorboard --logdir {options.runs} --samples_per_plugin images=200")
    print(f"In all: {time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="an AnimalPart folder: photos and annotations.json")
    parser.add_argument("--network", default=LITE0, help=f"{LITE0}, or a name of torchvision such as mobilenet_v2")
    parser.add_argument(
        "--weights",
        help="file with a state dict, or torchvision's name such as IMAGENET1K_V1; without, torchvision's are random",
    )
    parser.add_argument("--layers", nargs="+", help="probed; the loss is on the last")
    parser.add_argument("--loss", choices=LOSSES, default="spatial_compactness")
    parser.add_argument("--weight", type=float, default=0.02, help="of the filter loss")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the TensorBoard log")
    parser.add_argument("--accelerator", default="auto")
    return parser.parse_args(args)


def network(data: PartPhotosData, options: argparse.Namespace) -> PhotoCategories:
    seed_everything(0)
    return PhotoCategories(len(data.photos.classes), options.network, options.weights)


def raw(data: PartPhotosData, layers: list[str], options: argparse.Namespace) -> Figures:
    """The figures of the pretrained filters."""
    found = measure_parts(network(data, options), data.photos, layers, rule="peak", progress=show_progress)
    return {f"{name}/{tag}": value for name in ("location", "parts") for tag, value in found.scalars().items()}


def fit(
    name: str, data: PartPhotosData, layers: list[str], callbacks: list[Callback], options: argparse.Namespace
) -> Figures:
    """Fine-tune; the figures of the filters afterwards."""
    when = Every(n_epochs=options.epochs)
    probes = [
        # A filter has one category for its instability and its correlation: that of its largest mean peak.
        LocationInstability(data.photos, layers, rule="peak", schedule=when),
        PartInterpretability(data.photos, layers, schedule=when),
    ]
    trainer = Trainer(
        accelerator=options.accelerator,
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.runs, name=f"part_photos_{name}"),
        callbacks=[*probes, *callbacks],
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(network(data, options), data)
    return {tag: float(value) for tag, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    try:
        main()
    except InterpError as error:
        sys.exit(f"error: {error}")
