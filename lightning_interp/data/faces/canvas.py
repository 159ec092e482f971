"""Canvas that layers are painted on back to front, and the colours to paint with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.data.faces.concepts import SURFACE_ID, TEXTURES
from lightning_interp.data.faces.shapes import Frame, chequered, cover, dotted, grid, striped, zigzagged

Colour = tuple[int, int, int]

NOTHING = 255
"""In a canvas' ``surface``: no layer covers over half of the pixel."""

_PATTERNS: dict[str, Callable[[Frame], Tensor]] = {
    "striped": striped,
    "dotted": dotted,
    "chequered": chequered,
    "grid": grid,
    "zigzagged": zigzagged,
}


@dataclass(frozen=True)
class _Layer:
    coverage: Tensor
    colour: Tensor
    surface: str | None


@dataclass(frozen=True)
class Film:
    """Colours mixed so far: ``image`` ``(B, 3, S, S)`` is weighted by ``weight`` ``(B, 1, S, S)``, both float32."""

    image: Tensor
    weight: Tensor

    @classmethod
    def blank(cls, batch: int, size: int) -> "Film":
        """Nothing yet."""
        return cls(torch.zeros(batch, 3, size, size), torch.zeros(batch, 1, size, size))


class Canvas:
    """Layers painted over each other, and the front-most surface of every pixel.

    Attributes:
        surface: ``(B, S, S)`` uint8, position in ``SURFACES`` of the front-most layer that covers over half of the
            pixel, or :data:`NOTHING`.
    """

    def __init__(self, batch: int, size: int):
        self.surface = torch.full((batch, size, size), NOTHING, dtype=torch.uint8)
        self._layers: list[_Layer] = []

    def paint(self, distance: Tensor, colour: Tensor, surface: str | None = None, on: Tensor | None = None) -> None:
        """Paint one layer over all before.

        Args:
            distance: ``(B, S, S)``, signed distance to the layer's outline in pixels.
            colour: ``(B, 3, S, S)`` or broadcastable to it.
            surface: What the covered pixels show from now on; None keeps what they showed. A layer whose colour or
                shape an attribute changes needs one.
            on: ``(B,)``, 1 for faces that have the layer, 0 for those without; all have it by default.
        """
        coverage = cover(distance)
        if on is not None:
            coverage = coverage * on[:, None, None]
        self.blend(coverage, colour, surface)

    def blend(self, coverage: Tensor, colour: Tensor, surface: str | None = None) -> None:
        """Paint a layer that covers a known share, ``(B, S, S)`` from 0 to 1, of each pixel."""
        self._layers.append(_Layer(coverage, colour, surface))
        if surface is not None:
            self.surface.masked_fill_(coverage > 0.5, SURFACE_ID[surface])

    def develop(self, surface: Tensor, film: Film) -> Film:
        """Mix the colours of all layers over those of ``film``.

        A layer counts only in pixels that show its surface or touch one that does. So whatever an attribute
        changes, it changes no pixel further than one from where its surface is seen before or after; without this,
        a sliver that covers a fifth of a pixel would reach beyond its label.

        Args:
            surface: ``(B, S, S)`` uint8, what each pixel shows in the end.
            film: What lies behind.
        """
        near: dict[str, Tensor] = {}
        image, weight = film.image.clone(), film.weight.clone()
        for layer in self._layers:
            share = layer.coverage
            if layer.surface is not None:
                if layer.surface not in near:
                    near[layer.surface] = _touching(surface == SURFACE_ID[layer.surface])
                share = share * near[layer.surface]
            share = share[:, None]
            # This form gives the colour itself, to the bit, at a share of 1: what lies behind leaves no trace.
            image.mul_(1 - share).add_(layer.colour * share)
            weight.mul_(1 - share).add_(share)
        return Film(image, weight)


def _touching(mask: Tensor) -> Tensor:
    """``(B, S, S)`` bool: pixels in the mask or next to one, corners included."""
    wide = mask.clone()
    wide[..., 1:] |= mask[..., :-1]
    wide[..., :-1] |= mask[..., 1:]
    tall = wide.clone()
    tall[..., 1:, :] |= wide[..., :-1, :]
    tall[..., :-1, :] |= wide[..., 1:, :]
    return tall


def rgb(*colour: int) -> Tensor:
    """``(1, 3, 1, 1)`` colour from its three levels of 0 to 255."""
    return torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1) / 255


def pick(palette: Sequence[Colour], choice: Tensor) -> Tensor:
    """``(B, 3, 1, 1)`` colours by their position in the palette, ``(B,)`` int64."""
    return (torch.tensor(palette, dtype=torch.float32) / 255)[choice][:, :, None, None]


def ramp(palette: Sequence[Colour], position: Tensor) -> Tensor:
    """``(B, 3, 1, 1)`` colours at ``(B,)`` positions from 0 (the palette's first) to 1 (its last), piecewise linear."""
    scaled = position * (len(palette) - 1)
    low = scaled.floor().clamp(max=len(palette) - 2)
    return mix(pick(palette, low.long()), pick(palette, low.long() + 1), (scaled - low)[:, None, None])


def mix(first: Tensor, second: Tensor, share: Tensor | float) -> Tensor:
    """``share`` (``(B, S, S)`` or ``(B, 1, 1)``) of the second colour in the first."""
    share = share[:, None] if isinstance(share, Tensor) else share
    return first * (1 - share) + second * share


def pattern(frame: Frame, texture: Tensor) -> Tensor:
    """``(B, S, S)`` share of a second colour; ``texture`` ``(B,)`` is 0 for plain, else 1 + position in TEXTURES."""
    share = torch.zeros(frame.x.shape)
    for number, name in enumerate(TEXTURES, 1):
        at = (texture == number).nonzero()[:, 0]
        share[at] = _PATTERNS[name](Frame(frame.x[at], frame.y[at], frame.unit[at]))
    return share
