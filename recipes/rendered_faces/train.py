"""Train a small CNN on rendered faces and watch its units turn into detectors."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import NetworkDissection, RenderedFaces
from lightning_interp.methods.dissection.console import count_lines, unit_lines
from recipes.rendered_faces.module import FaceAttributes, Faces

LAYERS = ("features.1", "features.3", "features.4")


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    start = time.perf_counter()
    seed_everything(0)
    print(f"Rendering {options.faces} faces ...", flush=True)
    # Every face sits near the middle of its picture, so that its parts are larger than Broden's and an IoU of 0.04 is
    # often reached by chance: hence the higher share of pixels and the stricter threshold.
    probe = RenderedFaces(options.probe_faces)
    dissection = NetworkDissection(probe, LAYERS, quantile=0.01, iou_threshold=0.1)
    best = f"dissect/{LAYERS[-1]}/unique_detectors"
    checkpoint = ModelCheckpoint(
        monitor=best, mode="max", filename=f"{{epoch}}-{{{best}:.0f}}", auto_insert_metric_name=False
    )
    trainer = Trainer(
        accelerator=options.accelerator,
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.runs, name="rendered_faces"),
        callbacks=[dissection, checkpoint],
        log_every_n_steps=10,
    )
    trainer.fit(FaceAttributes(), Faces(options.faces, max(options.faces // 8, 1)))
    tell(dissection, trainer, options.runs)
    print(f"\nIn all: {time.perf_counter() - start:.0f} s")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--faces", type=int, default=4000, help="faces to train on")
    parser.add_argument("--probe-faces", type=int, default=500, help="faces to dissect with")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the TensorBoard log")
    parser.add_argument("--accelerator", default="auto")
    return parser.parse_args(args)


def tell(dissection: NetworkDissection, trainer: Trainer, runs: Path) -> None:
    """What was found, and where to look at it."""
    history = [("start" if e["epoch"] < 0 else str(e["epoch"]), e["scalars"]) for e in dissection.history]
    print(f"\nValidation accuracy: {trainer.callback_metrics['val_accuracy']:.3f}")
    for name in dissection.result.layers:
        print(f"\n{name}, epoch by epoch\n{count_lines(history, name)}")
    for name, layer in dissection.result.layers.items():
        print(f"\n{name}, best unit of each concept: {unit_lines(layer, variety=True)}")
    print(f"\nEvery unit with its images: {Path(trainer.log_dir) / 'interp' / dissection.name / 'report.html'}")
    print(f"TensorBoard: .venv/bin/tensorboard --logdir {runs} --samples_per_plugin images=200")


if __name__ == "__main__":
    main()
