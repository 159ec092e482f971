"""Images beside what a decoder draws of them: from whole maps, from the units of valid patterns alone, from nothing."""

from collections.abc import Mapping

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_interp.drawing.palette import INK, MUTED
from lightning_interp.drawing.pictures import scalable_font, tile_size, to_picture
from lightning_interp.drawing.text import clean

_GAP = 6
_MARGIN = 12
_TITLE = 30
_LINE = 16
_CAPTION = 20
_PAGE = "#FFFFFF"


def synthesis_gallery(layer: str, images: Tensor, drawn: Mapping[str, Tensor], *, tile: int = 128) -> Image.Image:
    """Draw images, one a row, and to the right of each what was drawn of it.

    Under each stands its error, the root of the mean squared difference of the pixels in per cent of their range; at
    the head of the column that of all its pictures.

    Args:
        layer: Name of the layer.
        images: ``(N, 3, H, W)``, uint8 or float in [0, 1].
        drawn: By column, ``(N, 3, H, W)`` float in [0, 1], cut where it leaves this range. Of the
            :class:`~lightning_interp.methods.graph.maths.assignment.Synthesis` of a layer for instance ``{"whole map":
            made.full, "valid patterns": made.kept, "as many units by chance": made.chance, "map of zeros":
            made.blank}``.
        tile: Longer side of an image as drawn, in pixels.

    Returns:
        An RGB image.
    """
    shown = images.cpu().float() / (255 if images.dtype == torch.uint8 else 1)
    columns = {name: pictures.detach().cpu().float().clamp(0, 1) for name, pictures in drawn.items()}
    cell = tile_size((images.shape[2], images.shape[3]), tile)
    heads = {"image": _wrapped("image", cell[0])}
    heads |= {
        name: [*_wrapped(clean(name, 80), cell[0]), f"error {_error(each - shown)}"] for name, each in columns.items()
    }
    top = _MARGIN + _TITLE + _LINE * max(len(lines) for lines in heads.values()) + 4
    row = cell[1] + _CAPTION
    page = Image.new("RGB", (2 * _MARGIN + len(heads) * (cell[0] + _GAP) - _GAP, top + row * len(shown)), _PAGE)
    draw = ImageDraw.Draw(page)
    title = _wrapped(f"{clean(layer)}: drawn from", page.width - 2 * _MARGIN, 15)[0]
    draw.text((_MARGIN, _MARGIN - 2), title, fill=INK, font=scalable_font(15))
    for column, (lines, pictures) in enumerate(zip(heads.values(), (shown, *columns.values()), strict=True)):
        x = _MARGIN + column * (cell[0] + _GAP)
        for i, line in enumerate(lines):
            draw.text((x, _MARGIN + _TITLE + i * _LINE), line, fill=INK, font=scalable_font(12))
        for i, picture in enumerate(pictures):
            y = top + i * row
            page.paste(Image.fromarray(to_picture(picture)).resize(cell, Image.Resampling.BICUBIC), (x, y))
            if column:
                draw.text((x, y + cell[1] + 1), _error(picture - shown[i]), fill=MUTED, font=scalable_font(11))
    return page


def _error(difference: Tensor) -> str:
    return f"{100 * difference.square().mean().sqrt():.1f} %"


def _wrapped(text: str, width: int, size: int = 12) -> list[str]:
    """Lines of words, none wider than ``width`` pixels but for single words that are."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and scalable_font(size).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
