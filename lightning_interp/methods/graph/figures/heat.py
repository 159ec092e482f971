"""Where an image's strongest part patterns lie: heat maps over the picture, by layer and together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.drawing.figures import new_figure
from lightning_interp.drawing.palette import INK, MUTED
from lightning_interp.drawing.pictures import Picture
from lightning_interp.drawing.text import clean
from lightning_interp.methods.graph.figures.patches import Images, picture_of_row
from lightning_interp.methods.graph.maths.assignment import valid_patterns
from lightning_interp.methods.graph.patterns import Inference, PatternGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 15 / 224  # of the Gaussians, over the shorter side, as in the published And-Or graph
_COLORS = "magma"
_TILE = 2.15  # inches
_GREY = 0.45  # how dark the picture is under the map

Floats = NDArray[np.float64]


def heat_map(points: Tensor, weights: Tensor, size: tuple[int, int]) -> Floats:
    """``(H, W)`` float64, the sum of a Gaussian of height ``weights[v]`` around each point.

    Args:
        points: ``(V, 2)``, x and y in pixels.
        weights: ``(V,)``.
        size: ``(H, W)``; the standard deviation is 15 / 224 of the shorter.
    """
    width = _WIDTH * min(size)
    x, y = points.double().T
    # A Gaussian is the product of one along each axis.
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(length)[:, None] - centre) / width) ** 2)
        for length, centre in zip(size, (y, x), strict=True)
    )
    return np.asarray(torch.einsum("hv,wv,v->hw", rows, columns, weights.double()).numpy())


def pattern_heat_map(
    graph: PatternGraph, inference: Inference, images: Images, *, rows: Sequence[int] | None = None
) -> "Figure":
    """Draw where the valid patterns of some images lie: a row an image, a column a layer, and one for all layers.

    Valid are the 10 % of a layer's patterns with the highest S in the image (Zhang et al., AAAI 2018); each is a
    Gaussian, 15 / 224 of the image wide, weighted by S. A layer's map is divided by the largest value that it has
    among the images shown, so that rows compare; S of two layers does not, so each layer counts the same in
    "all layers", their mean.

    Args:
        graph: The graph.
        inference: Where its patterns are in the images.
        images: Gives image ``i`` of the probe set.
        rows: Which images of the inference; four spread over it by default.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    rows = _spread(len(inference.images), 4) if rows is None else list(rows)
    titles, stacks = ["image"], []
    for name in graph.names:
        titles.append(clean(name, 24))
        stacks.append(_layer_maps(graph, inference, name, rows))
    if len(stacks) > 1:
        titles.append("all layers")
        stacks.append(np.mean(stacks, axis=0))
    height, width = graph.image_size
    figure = new_figure(
        _TILE * len(titles) * min(1.0, width / height) + 0.9, _TILE * len(rows) * min(1.0, height / width) + 0.5
    )
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for i, row in enumerate(rows):
        picture = picture_of_row(inference, images, row)
        _show(axes[i, 0], picture, graph.image_size)
        axes[i, 0].set_ylabel(f"image {int(inference.images[row])}", fontsize=9, color=MUTED)
        for cell, stack in zip(axes[i, 1:], stacks, strict=True):
            _show(cell, _darkened(picture), graph.image_size)
            heat = stack[i]
            image = cell.imshow(heat, cmap=_COLORS, vmin=0, vmax=1, alpha=np.clip(1.6 * heat, 0, 0.85))
    for column, title in zip(axes[0], titles, strict=True):
        column.set_title(title, fontsize=10, color=INK, parse_math=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01, aspect=40, ticks=[0, 0.5, 1])
    bar.set_label("top 10 % of the patterns, by S (1: most in the column)", color=MUTED, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9, length=0)
    return figure


def _spread(total: int, count: int) -> list[int]:
    count = min(count, total)
    return [i * total // count for i in range(count)]


def _layer_maps(graph: PatternGraph, inference: Inference, layer: str, rows: Sequence[int]) -> Floats:
    """``(len(rows), H, W)`` from 0 to 1."""
    kept, found = graph.kept(layer), inference[layer]
    valid = valid_patterns(found.score, among=kept)
    maps = [heat_map(found.point[i, valid[i]], found.score[i, valid[i]], graph.image_size) for i in rows]
    stack = np.stack(maps)
    return np.asarray(stack / max(float(stack.max()), np.finfo(np.float64).tiny))


def _show(axes: "Axes", picture: Picture, size: tuple[int, int]) -> None:
    # Pixels of the graph's image, whatever the resolution of the picture.
    axes.imshow(picture, extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _darkened(picture: Picture) -> Picture:
    grey = picture.mean(2, keepdims=True).repeat(3, axis=2)
    return np.asarray(_GREY * grey, dtype=np.uint8)
