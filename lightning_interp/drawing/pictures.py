"""An image with a unit's thresholded activation drawn on it, as in the Network Dissection papers."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageFont
from torch import Tensor

from lightning_interp._extras import available, require
from lightning_interp.functional.upsampling import Axis, Border, Grid, upsample

Picture = NDArray[np.uint8]

_OUTLINE = (255, 226, 64)
_DIM = 0.38


def to_picture(image: Tensor) -> Picture:
    """``(C, H, W)`` image of a probe set as ``(H, W, 3)`` uint8 to look at.

    Floats are taken as [0, 1]; a float image that leaves this range is stretched from its minimum to its
    maximum. Of two channels, or more than three, the first or the first three are shown.
    """
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = torch.nan_to_num(pixels.double(), nan=0.0, posinf=1.0, neginf=0.0)
        low, high = pixels.min(), pixels.max()
        if low < 0 or high > 1:
            pixels = (pixels - low) / (high - low).clamp(min=1e-12)
        pixels = (pixels * 255).round().to(torch.uint8)
    channels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    return np.ascontiguousarray(channels.permute(1, 2, 0).numpy().astype(np.uint8))


def upsample_map(
    maps: NDArray[np.float32],
    anchors: tuple[Sequence[float], Sequence[float]],
    border: str,
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """Low-resolution maps on the mask grid, as the dissection had them.

    Args:
        maps: ``(..., h, w)`` float32.
        anchors: Positions of the rows and of the columns on the mask grid, in mask pixels, equally spaced.
        border: ``"hold"`` or ``"zero"``.
        size: Height and width of the mask grid.

    Returns:
        ``(..., H, W)`` float64.
    """
    rows, columns = (_axis(a, s, border) for a, s in zip(anchors, size, strict=True))
    return np.asarray(upsample(torch.from_numpy(np.ascontiguousarray(maps)), Grid(rows, columns)).numpy())


def _axis(anchors: Sequence[float], size: int, border: str) -> Axis:
    # A single value has no spacing; its cell is the whole axis.
    step = anchors[1] - anchors[0] if len(anchors) > 1 else float(size)
    kind: Border = "zero" if border == "zero" else "hold"
    return Axis(len(anchors), size, anchors[0], step, kind)


def lit(picture: Picture, mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """The picture in full colour inside the mask, darkened outside, with a thin bright line between.

    Args:
        picture: ``(H, W, 3)`` uint8.
        mask: ``(h, w)``, of any resolution; it covers the whole picture.
        size: Width and height of the result in pixels.
    """
    scaled = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    inside = inside.point([0] * 128 + [255] * 128)
    edge = np.asarray(inside.filter(ImageFilter.MaxFilter(3))) > np.asarray(inside)
    shown = np.where(np.asarray(inside)[:, :, None] > 0, scaled, scaled * _DIM).astype(np.uint8)
    shown[edge] = _OUTLINE
    return Image.fromarray(shown)


Images = Callable[[int], Picture]


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def tile_size(mask_size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Width and height of a tile: in the proportions of masks and images, the longer side ``tile``."""
    height, width = mask_size
    scale = tile / max(height, width)
    return max(round(width * scale), 1), max(round(height * scale), 1)


@cache
def scalable_font(size: int) -> Font:
    """A scalable font: DejaVu Sans, which most alphabets find their letters in, if matplotlib brings it."""
    if available("matplotlib"):
        fonts = Path(require("matplotlib").get_data_path(), "fonts", "ttf")
        return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), size)
    return ImageFont.load_default(size)
