"""Train a decoder that draws rendered faces from the maps of a layer, for the synthesis of an explanatory graph."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import RenderedFaces
from lightning_interp.methods.dissection.console import aligned
from lightning_interp.methods.graph.figures.synthesis import synthesis_gallery
from lightning_interp.results.files import write_png
from recipes.graph_decoder.module import FEW, LayerDecoder, ProbeImages, strongest
from recipes.rendered_faces.module import FaceAttributes

# By row of the table, what is logged.
ROWS = {
    "mean image": "error/mean_image",
    "map of zeros": "error/nothing",
    f"strongest {FEW:.0%} of the units": "error/few",
    "whole map": "error/whole",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    start, used = time.perf_counter(), time.process_time()
    seed_everything(0)
    faces = RenderedFaces(options.faces, seed=1)
    data = ProbeImages(faces, faces.split(2, num_images=max(options.faces // 4, 1)))
    trainer = Trainer(
        accelerator=options.accelerator,
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.runs, name="graph_decoder"),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    net = LayerDecoder(FaceAttributes(), options.layer, options.checkpoint)
    trainer.fit(net, data)
    found = {row: float(trainer.callback_metrics[tag]) for row, tag in ROWS.items()}
    lines = [(row, f"{error:.5f}", f"{error / found['mean image']:.3f}") for row, error in found.items()]
    print(f"\n{aligned([(f'{options.layer}, drawn from', 'squared error', 'of the mean image'), *lines])}")
    page = net.file.with_name("drawn.png")
    draw(net, data, page)
    print(f"\nDecoder: {net.file}\nFaces that it has not seen: {page}")
    print(f"In all: {time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="of the network of recipes/rendered_faces")
    parser.add_argument("--layer", default="features.4")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--faces", type=int, default=1000, help="faces to train on")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the TensorBoard log")
    parser.add_argument("--accelerator", default="auto")
    return parser.parse_args(args)


def draw(net: LayerDecoder, data: ProbeImages, path: Path, count: int = 6) -> None:
    """Validation faces beside what is drawn of them."""
    net.eval().cpu()
    faces = torch.stack([data.val.image(i) for i in range(min(count, len(data.val)))])
    maps = net.maps(faces)
    few = strongest(maps, torch.full((len(maps),), FEW))
    with torch.no_grad():
        drawn = [net.decoder(each) for each in (maps, few, torch.zeros_like(maps))]
    columns = ("whole map", f"strongest {FEW:.0%} of its units", "map of zeros")
    write_png(path, synthesis_gallery(net.hparams["layer"], faces, dict(zip(columns, drawn, strict=True))))


if __name__ == "__main__":
    main()
