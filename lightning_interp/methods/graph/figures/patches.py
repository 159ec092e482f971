"""Patches of the images in which part patterns are strongest, and a gallery of them: a row a pattern."""

from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageDraw

from lightning_interp.drawing.palette import EMPTY, INK, MUTED
from lightning_interp.drawing.pictures import Picture, scalable_font
from lightning_interp.drawing.text import clean
from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.figures.overview import each_filter_once
from lightning_interp.methods.graph.maths.editing import rank
from lightning_interp.methods.graph.patterns import Inference, PatternGraph

Images = Callable[[int], Picture]
"""By index in the probe set, the picture, ``(H, W, 3)`` uint8."""

PATCH = 70 / 224
"""Side of a patch over the shorter side of the image: Zhang et al. cut 70 of 224 pixels."""

_GAP = 4
_MARGIN = 12
_HEAD = 62
_TITLE = 22
_NARROWEST = 560


class Sight(NamedTuple):
    """One image in which a pattern was found.

    Args:
        row: Which image of the inference.
        x: Where the pattern is, in pixels of the image (of the mirror image where the inference says so).
        y: Likewise.
        score: Its S there.
    """

    row: int
    x: float
    y: float
    score: float


def learnt(graph: PatternGraph) -> Inference:
    """Where the patterns are in the images that the graph was learnt from.

    Raises:
        DatasetError: If the graph does not hold that.
    """
    if graph.learnt_from is None:
        raise DatasetError(
            "the graph does not hold where its patterns are; pass what graph.infer gives for some images"
        )
    return graph.learnt_from


def best_sights(inference: Inference, layer: str, patterns: Sequence[int], count: int) -> list[list[Sight]]:
    """For each of some patterns the images where its S is highest, best first; those where it is silent never."""
    found, chosen = inference[layer], list(patterns)
    values, rows = (each[:count] for each in found.score[:, chosen].sort(dim=0, descending=True, stable=True))
    places = found.point[rows, chosen]
    columns = zip(*(each.transpose(0, 1).tolist() for each in (rows, places, values)), strict=True)
    return [[Sight(r, x, y, v) for r, (x, y), v in zip(*each, strict=True) if v > 0] for each in columns]


def picture_of_row(inference: Inference, images: Images, row: int) -> Picture:
    """The picture of one image of an inference, mirrored where its patterns were found in the mirror image."""
    picture = images(int(inference.images[row]))
    return picture[:, ::-1] if inference.mirrored[row] else picture


def patch_box(x: float, y: float, size: tuple[int, int]) -> tuple[float, float, float]:
    """Left, top and side of the patch around a point, moved so that it lies within the image.

    Args:
        x: The point in pixels, whole numbers being centres of pixels.
        y: Likewise.
        size: ``(H, W)`` of the image.

    Returns:
        In pixels, whole numbers being edges of pixels: the image goes from 0 to W and from 0 to H.

    Example:
        >>> patch_box(111.5, 10, (224, 224))
        (77.0, 0.0, 70.0)
    """
    height, width = size
    side = PATCH * min(size)
    left, top = (min(max(at + 0.5 - side / 2, 0.0), whole - side) for at, whole in ((x, width), (y, height)))
    return left, top, side


def cut_patch(picture: Picture, x: float, y: float, size: tuple[int, int], pixels: int) -> Image.Image:
    """The patch around a point, see :func:`patch_box`, drawn ``pixels`` wide and high.

    Args:
        picture: ``(H', W', 3)`` uint8, the whole image at any resolution.
        x: The point, in pixels of an image of ``size``.
        y: Likewise.
        size: ``(H, W)`` of the image.
        pixels: Side of the result.
    """
    left, top, side = patch_box(x, y, size)
    down, across = picture.shape[0] / size[0], picture.shape[1] / size[1]
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return Image.fromarray(picture).resize((pixels, pixels), Image.Resampling.LANCZOS, box=box)


def jpeg(picture: Picture, longest: int) -> bytes:
    """A picture as JPEG of quality 80, its longer side at most ``longest`` pixels."""
    shown = Image.fromarray(picture)
    shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = BytesIO()
    shown.save(file, format="JPEG", quality=80)
    return file.getvalue()


def node_patches(
    graph: PatternGraph, layer: str, images: Images, *, patterns: int = 10, columns: int = 8, tile: int = 96
) -> Image.Image:
    """Draw a layer's strongest patterns, the best of each filter, a row each of patches of its strongest images.

    The patches are cut around the unit that the pattern takes; at the border they are moved to stay whole. Places
    are grey where the pattern has no more images.

    Args:
        graph: A graph that holds the images it was learnt from.
        layer: The layer.
        images: Gives image ``i`` of the probe set.
        patterns: Rows at most.
        columns: Patches a row.
        tile: Side of a patch as drawn, in pixels.

    Returns:
        An RGB image.

    Raises:
        DatasetError: If the graph has no such layer, or does not hold where its patterns are.
    """
    inference, own = learnt(graph), graph[layer]
    # Patterns of one filter often find the same place.
    rows = each_filter_once([pattern.row for pattern in rank(graph, layer)], own)[:patterns]
    names = own.names()
    picture = cache(lambda row: picture_of_row(inference, images, row))
    pitch = _TITLE + tile + 8
    width = max(2 * _MARGIN + columns * (tile + _GAP) - _GAP, _NARROWEST)
    page = Image.new("RGB", (width, _HEAD + pitch * len(rows) + _MARGIN // 2), "white")
    draw = ImageDraw.Draw(page)
    _write(draw, 10, f"{clean(layer)}: the strongest part patterns", 15, INK)
    note = f"{len(rows)} of {len(own)}, the best of each filter; on the images where each is strongest"
    _write(draw, 34, note, 12, MUTED)
    for i, sights in enumerate(best_sights(inference, layer, rows, columns)):
        top = _HEAD + i * pitch
        score = float(own.score[rows[i]])
        _write(draw, top, f"{clean(names[rows[i]])}   score {score:.2f} times the layer's mean", 13, INK)
        for slot in range(columns):
            shown = Image.new("RGB", (tile, tile), EMPTY)
            if slot < len(sights):
                sight = sights[slot]
                shown = cut_patch(picture(sight.row), sight.x, sight.y, graph.image_size, tile)
            page.paste(shown, (_MARGIN + slot * (tile + _GAP), top + _TITLE))
    return page


def _write(draw: ImageDraw.ImageDraw, top: float, text: str, size: int, color: str) -> None:
    draw.text((_MARGIN, top), text, fill=color, font=scalable_font(size))
