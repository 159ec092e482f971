"""The gallery of filters and landmarks: a row a filter, its top images with its peak and the landmarks on them."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from PIL import Image, ImageDraw

from lightning_interp.drawing.palette import EMPTY, INK, MUTED
from lightning_interp.drawing.pictures import Picture, scalable_font, tile_size
from lightning_interp.drawing.text import clean
from lightning_interp.methods.parts.figures.table import FilterSummary
from lightning_interp.methods.parts.result import LayerParts

Images = Callable[[int], Picture]
Landmarks = Callable[[int], Mapping[str, tuple[float, float]]]
"""By index in the probe set, x and y of the landmarks in pixels of the image, by name."""

_GAP = 4
_MARGIN = 12
_HEAD = 62
_TITLE = 24
_NARROWEST = 620
_PAGE = "#FFFFFF"
_PEAK = "#FFE240"
_OWN = "#00B4FF"
_OTHER = "#FFFFFF"
_EDGE = "#101214"


def filter_gallery(
    layer: LayerParts,
    filters: Sequence[FilterSummary],
    images: Images,
    landmarks: Landmarks,
    size: tuple[int, int],
    *,
    tile: int = 128,
) -> Image.Image:
    """Draw filters, one a row, with their top images from left to right.

    A yellow cross marks the peak, the centre of its receptive field; a blue ring the landmark that the filter
    correlates with most, white rings the others.

    Args:
        layer: The layer.
        filters: Those to draw, top to bottom; see :func:`lightning_interp.methods.parts.figures.table.steadiest`.
        images: Gives image ``i`` of the probe set, ``(H, W, 3)`` uint8.
        landmarks: Gives its landmarks.
        size: ``(H, W)`` of the images.
        tile: Longer side of an image as drawn, in pixels.

    Returns:
        An RGB image.
    """
    images, columns, cell = cache(images), layer.top.image.shape[1], tile_size(size, tile)
    row = _TITLE + cell[1] + 8
    width = max(2 * _MARGIN + columns * (cell[0] + _GAP) - _GAP, _NARROWEST)
    page = Image.new("RGB", (width, _HEAD + row * len(filters) + _MARGIN), _PAGE)
    draw = ImageDraw.Draw(page)
    _write(draw, (_MARGIN, 10), f"{clean(layer.layer)}: the steadiest filters on their top images", 15, INK)
    _legend(draw, 34)
    for i, each in enumerate(filters):
        top = _HEAD + i * row
        _write(draw, (_MARGIN, top), _title(each), 13, INK)
        for slot, image in enumerate(layer.top.image[each.filter].tolist()):
            peak = layer.top.point[each.filter, slot].tolist()
            picture = Image.new("RGB", cell, EMPTY)
            if image >= 0:
                picture = _marked(images(image), peak, landmarks(image), each.landmark, cell)
            page.paste(picture, (_MARGIN + slot * (cell[0] + _GAP), top + _TITLE))
    return page


def _title(each: FilterSummary) -> str:
    steady = f"filter {each.filter}   instability {each.instability:.3f}"
    blind = "" if math.isnan(each.best_constant) else f" (a constant {each.best_constant:.3f})"
    if each.landmark is None:
        return steady + blind
    return f"{steady}{blind}   {clean(each.landmark, 20)}: correlation {each.correlation:.2f}"


def _legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    x = float(_MARGIN + 6)
    for color, text in ((_PEAK, "peak"), (_OWN, "landmark it moves with most"), (_OTHER, "other landmarks")):
        if color == _PEAK:
            _cross(draw, (x, y + 7), 5)
        else:
            _ring(draw, (x, y + 7), 4, color)
        x = _write(draw, (x + 12, y), text, 12, MUTED) + 22


def _marked(
    picture: Picture,
    peak: Sequence[float],
    landmarks: Mapping[str, tuple[float, float]],
    own: str | None,
    cell: tuple[int, int],
) -> Image.Image:
    """The picture at the size of a cell, with its landmarks, then the peak."""
    height, width = picture.shape[:2]
    shown = Image.fromarray(picture).resize(cell, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(shown)

    def place(point: Sequence[float]) -> tuple[float, float]:
        # Whole numbers are centres of pixels, here and there.
        return (point[0] + 0.5) * cell[0] / width - 0.5, (point[1] + 0.5) * cell[1] / height - 0.5

    for name, point in sorted(landmarks.items(), key=lambda each: each[0] == own):
        _ring(draw, place(point), 4 if name == own else 2.5, _OWN if name == own else _OTHER)
    _cross(draw, place(peak), 5)
    return shown


def _ring(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, color: str) -> None:
    x, y = centre
    for grown, ink, line in ((radius + 1, _EDGE, 3), (radius, color, 2)):
        draw.ellipse((x - grown, y - grown, x + grown, y + grown), outline=ink, width=line)


def _cross(draw: ImageDraw.ImageDraw, centre: tuple[float, float], arm: int) -> None:
    x, y = centre
    for ink, line, reach in ((_EDGE, 4, arm + 1), (_PEAK, 2, arm)):
        draw.line((x - reach, y, x + reach, y), fill=ink, width=line)
        draw.line((x, y - reach, x, y + reach), fill=ink, width=line)


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, color: str) -> float:
    """Draw one line; gives the position where it ended."""
    font = scalable_font(size)
    draw.text(place, text, fill=color, font=font)
    return place[0] + font.getlength(text)
