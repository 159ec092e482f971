"""A graph drawn: a row a layer, the strongest patterns as patches, edges by weight."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from lightning_interp._extras import require
from lightning_interp.drawing.figures import new_figure
from lightning_interp.drawing.palette import INK, MUTED
from lightning_interp.drawing.text import clean
from lightning_interp.methods.graph.figures.overview import Overview, OverviewEdge, overview
from lightning_interp.methods.graph.figures.patches import Images, best_sights, cut_patch, learnt, picture_of_row
from lightning_interp.methods.graph.patterns import PatternGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

# In inches, which are the units of the axes as well.
_ICON = 0.92
_PITCH = 1.16
_LABEL = 0.2
_ROOM = 0.95  # for the edges between two rows
_GUTTER = 1.55  # at the left, for the layers' names
_FOOT = 0.55
_MARGIN = 0.1
_NARROWEST = 6.6
_PIXELS = 128
_CAPTION = "filter/number · score over the layer's mean; an edge has its parent's colour and is as wide as its weight"
# Okabe & Ito's, and three more: one a parent, so that an edge can be followed.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C99", "#8C6D31", "#A0525E")


def draw_graph(graph: PatternGraph, images: Images, *, most: int = 9) -> "Figure":
    """Draw the strongest patterns of each layer, the top layer first, and all edges between those drawn.

    A pattern is the patch of the image that it is strongest in, with its filter, its number within the filter and its
    score over the layer's mean. An edge has the colour of the parent, and is the wider the more weight it has among
    all parents of the child. See :func:`lightning_interp.methods.graph.figures.overview.overview` for which patterns
    are drawn.

    Args:
        graph: A graph that holds the images it was learnt from.
        images: Gives image ``i`` of the probe set.
        most: Patterns a layer.

    Raises:
        DatasetError: If the graph does not hold where its patterns are.
        MissingExtraError: If matplotlib is not installed.
    """
    view = overview(graph, most)
    pitch = _ICON + _LABEL + _ROOM
    width = max(_GUTTER + max(len(row) for row in view.rows) * _PITCH, _NARROWEST)
    height = pitch * len(view.rows) - _ROOM + _FOOT
    figure = new_figure(width, height)
    # Everything has its place in inches already.
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.autoscale(False)
    axes.set(xlim=(-_MARGIN, width - _MARGIN), ylim=(height - _MARGIN, -_MARGIN))
    tops = [level * pitch for level in range(len(view.rows))]
    _draw_edges(axes, view, tops)
    for level, top in enumerate(tops):
        _draw_row(axes, graph, images, view, level, top)
    axes.text(0, height - 2 * _MARGIN, _CAPTION, fontsize=8.5, color=MUTED)
    return figure


def _left(view: Overview, level: int, slot: int) -> float:
    """Left edge of an icon; rows are centred on each other."""
    short = max(len(row) for row in view.rows) - len(view.rows[level])
    return _GUTTER + (slot + short / 2) * _PITCH


def _draw_row(axes: "Axes", graph: PatternGraph, images: Images, view: Overview, level: int, top: float) -> None:
    layer, rows, inference = graph.layers[level], view.rows[level], learnt(graph)
    picture = cache(lambda row: picture_of_row(inference, images, row))
    names = layer.names()
    lines = [f"{len(rows)} of {len(names)} patterns"]
    if level:
        shown = sum(edge.level == level for edge in view.edges)
        lines.append(f"{shown} of {int((layer.parents >= 0).sum())} edges")
    axes.text(0, top + 0.3, clean(layer.layer, 19), fontsize=10.5, color=INK, parse_math=False)
    axes.text(0, top + 0.4, "\n".join(lines), fontsize=8.5, color=MUTED, va="top", linespacing=1.4)
    for slot, (row, sights) in enumerate(zip(rows, best_sights(inference, layer.layer, rows, 1), strict=True)):
        left = _left(view, level, slot)
        if sights:
            sight = sights[0]
            icon = cut_patch(picture(sight.row), sight.x, sight.y, graph.image_size, _PIXELS)
            axes.imshow(np.asarray(icon), extent=(left, left + _ICON, top + _ICON, top), aspect="auto", zorder=2)
        label = f"{names[row].removeprefix(layer.layer + '/')} · {float(layer.score[row]):.1f}"
        axes.text(left + _ICON / 2, top + _ICON + 0.15, label, fontsize=8.5, color=MUTED, ha="center")


def _draw_edges(axes: "Axes", view: Overview, tops: list[float]) -> None:
    for edge in sorted(view.edges, key=lambda each: each.weight):
        start = _left(view, edge.level - 1, edge.parent) + _ICON / 2, tops[edge.level - 1] + _ICON + _LABEL
        end = _left(view, edge.level, edge.child) + _ICON / 2, tops[edge.level]
        axes.add_patch(_curve(start, end, edge))


def _curve(start: tuple[float, float], end: tuple[float, float], edge: OverviewEdge) -> "Patch":
    path = require("matplotlib.path").Path
    middle = (start[1] + end[1]) / 2
    corners = [start, (start[0], middle), (end[0], middle), end]
    patch: Patch = require("matplotlib.patches").PathPatch(
        path(corners, [path.MOVETO, path.CURVE4, path.CURVE4, path.CURVE4]),
        fill=False,
        edgecolor=_COLORS[edge.parent % len(_COLORS)],
        linewidth=0.5 + 7 * edge.weight,
        alpha=0.75,
        capstyle="round",
        zorder=1,
    )
    return patch
