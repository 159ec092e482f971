"""Other ways to find parts without labels, judged as the patterns are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_interp.data.landmarks import category_table, landmark_table
from lightning_interp.data.readers.part_photos import PartPhotos
from lightning_interp.functional.upsampling import Grid
from lightning_interp.methods.graph.maths.baselines import learn_patches
from lightning_interp.methods.graph.maths.evaluation import PlaceScores, evaluate_points
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.runner import prepare
from lightning_interp.probing.session import probing
from lightning_interp.probing.tap import tap


def maps_of(net: nn.Module, photos: PartPhotos, layers: Sequence[str], batch: int = 32) -> dict[str, Tensor]:
    """The maps of all photos by layer, in half precision."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    with probing(net), tap(resolve_layers(net, layers)) as taps:
        for start in range(0, len(photos), batch):
            images = torch.stack([photos.image(i) for i in range(start, min(start + batch, len(photos)))])
            net(prepare(images, net, photos.normalize))
            for name, maps in taps.collect().items():
                found[name].append(maps.half())
    return {name: torch.cat(parts) for name, parts in found.items()}


def mid_level(maps: Tensor, photos: PartPhotos, category: str, grid: Grid) -> PlaceScores:
    """Mid-level patches (Singh, Gupta and Efros, ECCV 2012): what tells patches of a category from those of others."""
    own = category_table(photos, range(len(photos))) == photos.classes.index(category)
    rows = own.nonzero()[:, 0].tolist()
    parts = learn_patches(maps[own].float(), maps[~own].float()).detect(maps[own].float(), grid)
    return evaluate_points(parts.point, parts.score, landmark_table(photos, rows)[1], grid)
