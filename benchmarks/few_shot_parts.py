"""How well a part is located from k boxes, beside a constant and the votes of raw filters.

    python -m benchmarks.few_shot_parts FOLDER      # FOLDER as AnimalPart reads it; extra "demo"; half an hour

Normalised distance |c - c*| / diagonal of the image, mean over the images without a box and over draws of the images
with one. All patterns come from the category's images without labels.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lightning_interp import AnimalPart
from lightning_interp.data.landmarks import category_table, landmark_table
from lightning_interp.data.probe import ProbeSet
from lightning_interp.functional.peaks import find_peaks, peak_points
from lightning_interp.methods.graph.engine import explanatory_graph, infer_images
from lightning_interp.methods.graph.maths.and_or import Label, Latent, latent_patterns, learn_part, locate
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.session import probing
from lightning_interp.probing.tap import tap
from recipes.pretrained_photos.module import LITE0, load_network, normalization

# Late layers whose filters are many and sparse tell the most.
LAYERS = ("_blocks.15._bn0", "_blocks.11._bn0")
SIDE = 224
# Filters that vote, and the width of their votes in pixels: the prototype's.
VOTERS, WIDTH = 40, 20.0

Method = Callable[[dict[int, Label]], Tensor]


def constant(images: int, labels: dict[int, Label]) -> Tensor:
    """``(N, 2)``: the mean centre of the boxes."""
    return _centres(labels).mean(0).expand(images, 2)


def raw_votes(latent: Latent, labels: dict[int, Label]) -> Tensor:
    """``(N, 2)``: where most of 40 filters agree whose peaks, in all labelled images, lie most steadily to the part."""
    rows = torch.tensor(list(labels))
    offsets = _centres(labels)[:, None] - latent.points[rows]
    spread = offsets.var(0, correction=0).sum(1).masked_fill(~(latent.scores[rows] > 0).all(0), math.inf)
    chosen = spread.argsort(stable=True)[:VOTERS]
    votes = latent.points[:, chosen] + offsets.mean(0)[chosen]
    active = latent.scores[:, chosen] > 0
    near = (-torch.cdist(votes, votes).square() / (2 * WIDTH**2)).exp()
    best = (near * active[:, None]).sum(2).masked_fill(~active, -1).argmax(1)
    place = votes[torch.arange(len(votes)), best]
    for _ in range(5):
        weight = active * (-(votes - place[:, None]).square().sum(-1) / (2 * WIDTH**2)).exp()
        place = (weight[..., None] * votes).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-12)
    return place


def and_or(latent: Latent, labels: dict[int, Label]) -> Tensor:
    """``(N, 2)``: the And-Or graph."""
    return locate(learn_part(latent, labels, (SIDE, SIDE)), latent).centre


def errors(method: Method, centres: Tensor, boxes: int, draws: int) -> list[float]:
    """Mean normalised distance on the images without a box, by draw of those with one."""
    found = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(1000 * boxes + draw)
        rows = torch.randperm(len(centres), generator=generator)[:boxes].tolist()
        place = method({row: _label(centres[row]) for row in rows})
        others = torch.ones(len(centres), dtype=torch.bool)
        others[rows] = False
        found.append(float((place - centres)[others].square().sum(1).sqrt().mean()) / (SIDE * math.sqrt(2)))
    return found


def raw_peaks(model: torch.nn.Module, probe: ProbeSet, rows: Sequence[int], graph: GraphResult) -> Latent:
    """Peaks of all filters of the graph's layers."""
    mean, std = (torch.tensor(part)[:, None, None] for part in probe.normalize or ((0.0,) * 3, (1.0,) * 3))
    points: list[list[Tensor]] = []
    values: list[list[Tensor]] = []
    with probing(model), tap(resolve_layers(model, graph.names)) as taps:
        for start in range(0, len(rows), 16):
            model(torch.stack([(probe.image(i).float() / 255 - mean) / std for i in rows[start : start + 16]]))
            maps = taps.collect()
            peaks = [find_peaks(maps[name]) for name in graph.names]
            points.append(
                [peak_points(each.cell, graph[name].grid) for each, name in zip(peaks, graph.names, strict=True)]
            )
            values.append([each.value for each in peaks])
    joined = (torch.cat([torch.cat(batch, 1) for batch in batches]).double() for batches in (points, values))
    return Latent(*(each.nan_to_num() for each in joined))


def widened(graph: GraphResult) -> GraphResult:
    """The same graph, whose patterns are looked for twice as far off: parts move more than their filters agree on."""
    return replace(graph, layers=tuple(replace(layer, width=2 * layer.width) for layer in graph.layers))


def _centres(labels: dict[int, Label]) -> Tensor:
    boxes = torch.tensor([label.box for label in labels.values()], dtype=torch.float64)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _label(centre: Tensor) -> Label:
    # Only the centre is judged; the size is that of a middling head.
    x, y = centre.tolist()
    return Label((x - 30, y - 30, x + 30, y + 30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", default="head")
    parser.add_argument("--boxes", type=int, nargs="+", default=(1, 3, 10))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    options = parser.parse_args()
    photos = AnimalPart(options.folder, normalize=normalization(LITE0), size=(SIDE, SIDE))
    model = load_network(LITE0).eval()
    everything = range(len(photos))
    (_, places), kinds = landmark_table(photos, everything, [options.part]), category_table(photos, everything, None)
    for number, category in enumerate(photos.classes):
        rows = [i for i in everything if kinds[i] == number and not places[i, 0].isnan().any()]
        graph = explanatory_graph(
            model, photos, options.layers, category=category, patterns=4, iterations=8, deformation=None, background=0.0
        )
        nodes = latent_patterns(graph, infer_images(widened(graph), model, photos, indices=rows))
        peaks = raw_peaks(model, photos, rows, graph)
        methods: dict[str, Method] = {
            "constant": partial(constant, len(rows)),
            "raw peaks, votes": partial(raw_votes, peaks),
            "raw peaks, And-Or graph": partial(and_or, peaks),
            "graph nodes, And-Or graph": partial(and_or, nodes),
        }
        for boxes in options.boxes:
            for name, method in methods.items():
                found = errors(method, places[rows, 0].double(), boxes, options.draws)
                deviation = statistics.stdev(found) if len(found) > 1 else math.nan
                print(
                    f"{category:8s} k = {boxes:2d}  {name:26s} {statistics.mean(found):.3f} +- {deviation:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
