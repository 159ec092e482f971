"""Explanatory graphs of a pretrained network, one a category of photos with parts, and what their patterns are."""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pytorch_lightning import seed_everything
from torch import nn

from lightning_interp import AnimalPart, GraphOptions, GraphResult, InterpError
from lightning_interp.drawing.pictures import to_picture
from lightning_interp.methods.graph.engine import GraphLearner
from lightning_interp.methods.graph.figures.table import page_scores
from lightning_interp.methods.graph.page import write_graph_page
from recipes.part_graphs.baselines import maps_of, mid_level
from recipes.part_photos.module import LITE0, load_backbone
from recipes.pretrained_photos.module import normalization

# The top layer first: the last maps of 7 x 7 and of 14 x 14 values, before the activation function.
LAYERS = {LITE0: ["features.20", "features.14._bn0"], "mobilenet_v2": ["features.18.1", "features.13.conv.0.1"]}
PUBLISHED = GraphOptions(sigma=0.15, deformation=None, window=0.15, background=0.0, pose=0)
ROWS = {
    "raw": "_raw",
    "raw, same": "_raw_same",
    "mid-level": "_mid_level",
    "patterns": "",
    "held still": "_frozen",
    "expected": "_expected",
    "centre": "_centre",
}
QUANTITIES = {
    "location instability": "instability",
    "the same, AAAI 2018": "instability_aaai2018",
    "displacement correlation": "correlation",
    "R2": "r2",
    "purity": "purity",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    seed_everything(0)
    start, used = time.perf_counter(), time.process_time()
    photos = AnimalPart(options.photos, normalize=normalization(options.network))
    net = nn.Sequential()
    net.features = load_backbone(options.network, options.weights)
    layers = options.layers or LAYERS.get(options.network, [])
    graphs = {}
    maps = maps_of(net, photos, layers)
    for category in options.categories or photos.classes:
        own = {"patterns": options.patterns, "filters": options.filters, "flips": options.flips}
        form = replace(PUBLISHED if options.published else GraphOptions(), **own)
        learner = GraphLearner(photos, layers, form, category=category, upsample=options.upsample)
        graph = learner(net)
        assert graph is not None
        for layer in graph.names:
            found = mid_level(maps[layer], photos, category, learner.grids[layer])
            graph.meta["evaluation"] |= {f"{layer}/{key}_mid_level": value for key, value in asdict(found).items()}
        graphs[category] = graph
        print(f"{category}: {sum(map(len, graph.layers))} patterns, {graph.seconds:.0f} s", flush=True)
        if options.out:
            graph.save(options.out / category)
            pictures = {int(i): to_picture(photos.image(int(i))) for i in graph.learnt_from.images}
            write_graph_page(graph, pictures.__getitem__, options.out / category / "graph.html", page_scores(graph))
    for layer in next(iter(graphs.values())).names:
        show(layer, graphs)
    print(f"\nIn all: {time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="an AnimalPart folder: photos and annotations.json")
    parser.add_argument("--categories", nargs="+", help="all by default")
    parser.add_argument("--network", default=LITE0, help=f"{LITE0}, or a name of torchvision such as mobilenet_v2")
    parser.add_argument(
        "--weights",
        help="file with a state dict, or torchvision's name such as IMAGENET1K_V1; without, torchvision's are random",
    )
    parser.add_argument("--layers", nargs="+", help="the top layer first")
    parser.add_argument("--filters", type=int, help="the so many of a layer with the largest mean response")
    parser.add_argument("--patterns", type=int, nargs="+", help="a filter, by layer; the paper's by default")
    parser.add_argument("--flips", action="store_true", help="let each photo or its mirror image speak")
    parser.add_argument("--published", action="store_true", help="the form of the paper and its code")
    parser.add_argument("--upsample", choices=("receptive_field", "cell"), default="receptive_field")
    parser.add_argument("--out", type=Path, help="write graphs and pages here")
    return parser.parse_args(args)


def show(layer: str, graphs: dict[str, GraphResult]) -> None:
    """A table by quantity, a row each of what was judged, a column a category."""
    print(f"\n{layer}")
    print(f"{'':38s}" + "".join(name.rjust(8) for name in (*graphs, "mean")))
    for title, quantity in QUANTITIES.items():
        for row, suffix in ROWS.items():
            values = [graph.meta["evaluation"][f"{layer}/{quantity}{suffix}"] for graph in graphs.values()]
            cells = "".join(f"{value:8.3f}" for value in (*values, statistics.fmean(values)))
            print(f"  {title:24s}  {row:10s}{cells}")


if __name__ == "__main__":
    try:
        main()
    except InterpError as error:
        sys.exit(f"error: {error}")
