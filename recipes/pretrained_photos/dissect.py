"""Dissect a real pretrained network on a folder of photos with masks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_interp import InterpError, SegmentationFolder, dissect, save_result
from lightning_interp.cli import show_progress, summary
from lightning_interp.drawing.pictures import to_picture
from lightning_interp.methods.dissection.figures.gallery import unit_gallery
from lightning_interp.methods.dissection.figures.units import gallery_units
from lightning_interp.methods.dissection.page import write_report
from recipes.pretrained_photos.module import LAYERS, LITE0, load_network, normalization


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    photos = SegmentationFolder(options.photos, normalize=normalization(options.network))
    network = load_network(options.network, options.weights)
    layers = options.layers or LAYERS.get(options.network, ["auto"])
    result = dissect(
        network, photos, layers, quantile=options.quantile, batch_size=options.batch_size, progress=show_progress
    )
    save_result(result, options.output)
    for name, layer in result.layers.items():
        units = gallery_units(layer, 10)
        gallery = unit_gallery(layer, lambda index: to_picture(photos.image(index)), units, photos.mask_size)
        gallery.save(options.output / f"units_{name}.png")
    print(f"{summary(result, rows=10)}\n\nReport: {write_report(result, photos, options.output)}")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder with images/, masks/ and classes.json")
    parser.add_argument("--network", default=LITE0, help=f"{LITE0}, or a name of torchvision such as mobilenet_v2")
    parser.add_argument("--weights", help="file with a state dict, or torchvision's name such as IMAGENET1K_V1")
    parser.add_argument("--layers", nargs="+", help=f"by default those of {', '.join(LAYERS)}, else 'auto'")
    parser.add_argument(
        "--quantile",
        type=float,
        default=0.005,
        help="share of a unit's values above its threshold; raise it where concepts are large and in most photos",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("interp"))
    return parser.parse_args(args)


if __name__ == "__main__":
    try:
        main()
    except InterpError as error:
        sys.exit(f"error: {error}")
