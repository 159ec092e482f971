"""The lipstick picture, made by the program: faces as they are and changed, with the score under each.

After Figure 1 of Zhang, Wang, Zhu, "Examining CNN representations with respect to dataset bias" (AAAI 2018), whose
masked and pasted mouths were made by hand. What is written under the pictures is this project's own.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from lightning_interp.drawing.palette import INK, MUTED
from lightning_interp.drawing.pictures import Picture, scalable_font, tile_size
from lightning_interp.drawing.text import clean
from lightning_interp.methods.bias.result import BiasResult, Example, Floats, Version

_GAP = 14
_MARGIN = 16
_TITLE = 26
_SMALL = 12  # letters of captions
_NUMBERS = 86  # the score, the change, whether it is right
_LEGEND = 26
_NARROWEST = 560
_PAGE = "#FFFFFF"
_RULE = "#D8DBE0"
_RIGHT = "#0072B2"
_WRONG = "#A8480F"
_OUTLINE = (255, 226, 64)
_FOR = (255, 56, 40)
_AGAINST = (70, 150, 255)
_DIM = 0.45
_CLIPPED = 0.005  # share of positions that may exceed the scale, so that one of them cannot fade all others
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma


class _Line(NamedTuple):
    text: str
    size: int
    color: str


class _Layout(NamedTuple):
    """What all rows share.

    Attributes:
        cell: Width and height of a picture as drawn.
        captions: Lines of the longest caption.
        limit: Absolute contribution in full colour; 0 without a heat map.
        least: Smallest absolute change that counts; NaN where changes are not judged.
    """

    cell: tuple[int, int]
    captions: int
    limit: float
    least: float


def intervention_gallery(result: BiasResult, *, tile: int = 160) -> Image.Image:
    """Draw the examples, one a row: the image, its changed versions, and where the evidence lies.

    A change of the score counts from half of the originals' mean absolute score. Blue says that it is as it should
    be, brown that it is not; a version that changes no pixel, or of which nothing can be said, is not judged, and
    without signal none is. The heat map has red for and blue against the target, on one symmetric
    scale for all rows; under it stands the share of its absolute values that lies in the region.

    Args:
        result: The diagnostics; its ``examples`` are drawn, in their order.
        tile: Longer side of an image as drawn, in pixels.

    Returns:
        An RGB image.
    """
    examples, layout = result.examples, _layout(result, tile)
    columns = max((len(e.versions) + (e.heat is not None) for e in examples), default=0)
    width = max(2 * _MARGIN + columns * (layout.cell[0] + _GAP) - _GAP, _NARROWEST)
    header = _header(result, layout.least, width - 2 * _MARGIN)
    head = _MARGIN + sum(_height(line.size) for line in header) + (_LEGEND if layout.limit else 0) + 6
    row = _TITLE + layout.cell[1] + layout.captions * _height(_SMALL) + _NUMBERS
    page = Image.new("RGB", (width, head + row * len(examples) + _MARGIN // 2), _PAGE)
    top = _write(page, (_MARGIN, _MARGIN), header)
    if layout.limit:
        _legend(page, (_MARGIN, top + 4), layout.limit, clean(result.target))
    for i, example in enumerate(examples):
        _row(page, head + i * row, example, result, layout)
    return page


def _layout(result: BiasResult, tile: int) -> _Layout:
    examples = result.examples
    cell = tile_size(examples[0].region.shape, tile) if examples else (tile, tile)
    captions = [len(_caption(version, cell[0])) for e in examples for version in e.versions]
    scores = [abs(e.versions[0].logit) for e in examples if np.isfinite(e.versions[0].logit)]
    judged = scores and any(result.signal.values())
    return _Layout(cell, max(captions, default=1), _limit(examples), float(np.mean(scores)) / 2 if judged else np.nan)


def _header(result: BiasResult, least: float, room: int) -> list[_Line]:
    """What the picture asks, and how to read it."""
    target, region = clean(result.target), clean(result.region)
    contexts = [f"{clean(name)} ({clean(place)})" for name, place in result.contexts.items()]
    title = f"{target}: does the {region} decide it{''.join(f', or {c}' for c in contexts)}?"
    reading = (
        f"Under each picture: its score (log-odds), then the change against the original. Changing the outlined "
        f"{region} should change the score, changing anything else should not; hiding it where {target} is absent is "
        f"not judged."
    )
    if np.isfinite(least):
        reading += f" A change counts from {least:.2f}, half of the originals' mean score."
    lines = [_Line(text, 18, INK) for text in _wrap(title, 18, room, 2)]
    lines += [_Line(text, _SMALL, MUTED) for text in _wrap(reading, _SMALL, room, 4)]
    if not any(result.signal.values()):
        silence = f"No signal yet: the network does not know {target} well enough for its scores to mean anything."
        lines += [_Line(text, 13, _WRONG) for text in _wrap(silence, 13, room, 2)]
    return lines


def _legend(page: Image.Image, place: tuple[int, int], limit: float, target: str) -> None:
    """The colours of the heat map from against to for, and the sign of the outline."""
    (left, top), bar = place, (180, 14)
    draw, scale = ImageDraw.Draw(page), np.broadcast_to(np.linspace(-limit, limit, bar[0]), bar[::-1])
    texts = (f"evidence against {target}  -{limit:.2g}", f"+{limit:.2g}  for it")
    draw.text((left, top), texts[0], fill=MUTED, font=scalable_font(_SMALL))
    left += round(scalable_font(_SMALL).getlength(texts[0])) + 8
    page.paste(Image.fromarray(_glow(np.full((*bar[::-1], 3), 128, dtype=np.uint8), scale, limit)), (left, top))
    draw.text((left + bar[0] + 8, top), texts[1], fill=MUTED, font=scalable_font(_SMALL))


def _row(page: Image.Image, top: int, example: Example, result: BiasResult, layout: _Layout) -> None:
    ImageDraw.Draw(page).line((_MARGIN, top, page.width - _MARGIN, top), fill=_RULE)
    title = f"image {example.index}: {clean(result.target)} = {example.label}"
    _write(page, (_MARGIN, top + 5), [_Line(title, 13, INK)])
    original, top = example.versions[0], top + _TITLE
    for slot, version in enumerate(example.versions):
        picture = Image.fromarray(version.image).resize(layout.cell, Image.Resampling.LANCZOS)
        foot = _change(example, version, layout.least)
        if version is original:
            picture = _outlined(picture, example.region)
            foot = [_Line(_signed(version.logit), 22, INK), _Line("score", _SMALL, MUTED)]
        _tile(page, (slot, top), picture, _caption(version, layout.cell[0]), foot, layout)
    if example.heat is not None:
        glow = Image.fromarray(_glow(original.image, example.heat, layout.limit))
        picture = _outlined(glow.resize(layout.cell, Image.Resampling.LANCZOS), example.region)
        foot = _inside(example.heat, example.region, clean(result.region))
        caption = _wrap("where the evidence lies", _SMALL, layout.cell[0], 1)
        _tile(page, (len(example.versions), top), picture, caption, foot, layout)


def _tile(
    page: Image.Image,
    place: tuple[int, int],
    picture: Image.Image,
    caption: list[str],
    foot: list[_Line],
    layout: _Layout,
) -> None:
    """One picture with its caption and numbers; ``place`` is the column and the top in pixels."""
    width, height = layout.cell
    left, below = _MARGIN + place[0] * (width + _GAP), place[1] + height + 4
    page.paste(picture, (left, place[1]))
    _write(page, (left, below), [_Line(text, _SMALL, INK) for text in caption])
    # The numbers of a row stand at one height, however long its captions are.
    cut = [line._replace(text=_cut(line.text, line.size, width)) for line in foot]
    _write(page, (left, below + layout.captions * _height(_SMALL)), cut)


def _caption(version: Version, room: int) -> list[str]:
    return _wrap(clean(version.caption, 80), _SMALL, room, 2)


def _change(example: Example, version: Version, least: float) -> list[_Line]:
    """The score, how it differs from the original's, and whether it ought to."""
    change = version.logit - example.versions[0].logit
    should = None if np.array_equal(version.image, example.versions[0].image) else version.should_change
    score = _Line(_signed(version.logit), 22, INK)
    if should is None or not np.isfinite(least + change):
        return [score, _Line(_signed(change), 17, MUTED)]
    right = (abs(change) >= least) == should
    word = ("rightly " if right else "should have ") + ("changed" if should else "stayed")
    color = _RIGHT if right else _WRONG
    return [score, _Line(_signed(change), 17, color), _Line(word, _SMALL, color)]


def _inside(heat: Floats, region: NDArray[np.bool_], name: str) -> list[_Line]:
    """How much of the evidence, for and against, lies in the region."""
    weight = np.abs(np.nan_to_num(heat))
    whole = weight.sum()
    if not whole:
        return [_Line("none", 22, MUTED)]
    share = f"{100 * weight[region].sum() / whole:.0f} %"
    area = f"in {name} ({100 * region.mean():.0f} % of area)"
    return [_Line(share, 22, INK), _Line(area, _SMALL, MUTED)]


def _limit(examples: tuple[Example, ...]) -> float:
    """The absolute contribution that is drawn in full colour; 0 if there is no heat map, or none but zeros."""
    heats = [np.abs(np.nan_to_num(e.heat)).ravel() for e in examples if e.heat is not None]
    values = np.concatenate(heats) if heats else np.zeros(1)
    return float(np.quantile(values, 1 - _CLIPPED) or values.max())


def _glow(picture: Picture, heat: Floats, limit: float) -> Picture:
    """The picture in dim grey under the heat map, red above zero and blue below."""
    strength = np.clip(np.nan_to_num(heat) / (limit or 1.0), -1, 1)[:, :, None]
    ground = (picture @ _GREY * _DIM)[:, :, None]
    color = np.where(strength > 0, _FOR, _AGAINST)
    weight = np.abs(strength)
    shown: Picture = (ground * (1 - weight) + color * weight).astype(np.uint8)
    return shown


def _outlined(picture: Image.Image, region: NDArray[np.bool_]) -> Image.Image:
    """The picture with a thin bright line around the region."""
    inside = Image.fromarray(region.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BILINEAR)
    inside = inside.point([0] * 128 + [255] * 128)
    shown = np.array(picture)
    shown[np.asarray(inside.filter(ImageFilter.MaxFilter(3))) > np.asarray(inside)] = _OUTLINE
    return Image.fromarray(shown)


def _write(page: Image.Image, place: tuple[int, int], lines: list[_Line]) -> int:
    """Draw lines one below the other; gives the position below the last."""
    draw, (left, top) = ImageDraw.Draw(page), place
    for line in lines:
        draw.text((left, top), line.text, fill=line.color, font=scalable_font(line.size))
        top += _height(line.size)
    return top


def _height(size: int) -> int:
    return round(1.35 * size)


def _wrap(text: str, size: int, room: int, most: int) -> list[str]:
    """Text broken at its spaces into at most ``most`` lines, cut where one does not fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and len(lines) < most and scalable_font(size).getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_cut(line, size, room) for line in lines]


def _cut(text: str, size: int, room: int) -> str:
    while len(text) > 1 and scalable_font(size).getlength(text) > room:
        text = text[:-2] + "…"
    return text


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}" if np.isfinite(value) else "no score"
