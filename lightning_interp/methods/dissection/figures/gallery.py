"""The classic Network Dissection gallery: a row a unit, its top images with the mask drawn on them."""

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw

from lightning_interp.drawing.palette import EMPTY, INK, MUTED, category_color
from lightning_interp.drawing.pictures import Images, lit, scalable_font, tile_size, upsample_map
from lightning_interp.drawing.text import clean
from lightning_interp.methods.dissection.figures.units import UnitSummary, unit_summaries
from lightning_interp.methods.dissection.result import LayerDissection

_GAP = 4
_MARGIN = 12
_TITLE = 26
_PAGE = "#FFFFFF"
_WARNING = "#A8480F"


def unit_gallery(
    layer: LayerDissection,
    images: Images,
    units: Sequence[int],
    mask_size: tuple[int, int],
    *,
    tile: int = 112,
) -> Image.Image:
    """Draw units, one a row, with their top images from left to right.

    A filled square before the title marks a detector that beats chance, in the colour of its category; any
    other unit has a hollow one, and the title says why. Empty slots and units that are not scored are grey.

    Args:
        layer: The dissection.
        images: Gives image ``i`` of the probe set, ``(H, W, 3)`` uint8.
        units: Channel numbers, top to bottom; see
            :func:`lightning_interp.methods.dissection.figures.units.gallery_units`.
        mask_size: ``(h, w)`` of the probe set's masks.
        tile: Longer side of an image as drawn, in pixels.

    Returns:
        An RGB image.
    """
    images, summaries = cache(images), unit_summaries(layer)
    columns, cell = layer.top.index.shape[1], tile_size(mask_size, tile)
    # Wide enough for a title, however few images there are.
    width = max(2 * _MARGIN + columns * (cell[0] + _GAP) - _GAP, 420)
    head, row = _MARGIN + 30, _TITLE + cell[1] + 10
    page = Image.new("RGB", (width, head + row * len(units) + _MARGIN // 2), _PAGE)
    draw = ImageDraw.Draw(page)
    chance = f"by chance units reach IoU {layer.chance_max_iou:.2f}"
    end = _write(draw, (_MARGIN, _MARGIN - 2), f"{clean(layer.layer)}: images that excite each unit most", 15, INK)
    _write(draw, (end + 12, _MARGIN), chance, 12, MUTED)
    for i, unit in enumerate(units):
        top = head + i * row
        _title(draw, summaries[unit], top)
        page.paste(unit_strip(layer, images, unit, mask_size, tile=tile), (_MARGIN, top + _TITLE))
    return page


def unit_strip(
    layer: LayerDissection,
    images: Images,
    unit: int,
    mask_size: tuple[int, int],
    *,
    tile: int = 112,
    columns: int | None = None,
    gap: str = _PAGE,
) -> Image.Image:
    """One unit's top images from left to right, with its masks; see :func:`unit_gallery`.

    Args:
        layer: The dissection.
        images: Gives image ``i`` of the probe set.
        unit: Channel number.
        mask_size: ``(h, w)`` of the probe set's masks.
        tile: Longer side of an image as drawn, in pixels.
        columns: How many images; all that the result holds if None.
        gap: Colour between the images.
    """
    index = layer.top.index[unit][:columns]
    masks = (
        upsample_map(layer.top.maps[unit][:columns], layer.anchors, layer.border, mask_size) > layer.thresholds[unit]
    )
    cell = tile_size(mask_size, tile)
    strip = Image.new("RGB", (max(len(index), 1) * (cell[0] + _GAP) - _GAP, cell[1]), gap)
    for slot, image in enumerate(index):
        scored = image >= 0 and layer.status[unit] == "ok"
        picture = lit(images(int(image)), masks[slot], cell) if scored else Image.new("RGB", cell, EMPTY)
        strip.paste(picture, (slot * (cell[0] + _GAP), 0))
    return strip


def _title(draw: ImageDraw.ImageDraw, summary: UnitSummary, top: int) -> None:
    color = category_color(summary.category) if summary.category else MUTED
    trusted = not summary.caveat
    box = (_MARGIN, top + 7, _MARGIN + 10, top + 17)
    draw.rectangle(box, fill=color if trusted else None, outline=color, width=2)
    end = _write(draw, (_MARGIN + 18, top + 4), summary.title, 13, INK if trusted else MUTED)
    if summary.caveat:
        _write(draw, (end + 12, top + 5), summary.caveat, 12, _WARNING)


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, color: str) -> float:
    """Draw one line, cut where the page ends; gives the position where it ended."""
    font, room = scalable_font(size), draw.im.size[0] - _MARGIN - place[0]
    while len(text) > 1 and font.getlength(text) > room:
        text = text[:-2] + "…"
    draw.text(place, text, fill=color, font=font)
    return place[0] + font.getlength(text)
