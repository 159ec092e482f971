"""Anti-aliased shapes and patterns on a batch of pixel grids.

Pixel values must not depend on the batch they are drawn in. IEEE arithmetic rounds ``+ - * / sqrt floor`` in one
way only, whereas sines and exponentials may differ in the last bit between the vectorised body of a loop and its
tail; so nothing here uses the latter.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Number = float | Tensor


@dataclass(frozen=True)
class Frame:
    """Coordinates of every pixel centre in a frame of its own for each image.

    Args:
        x: ``(B, S, S)`` float32, to the right, in units of the frame.
        y: ``(B, S, S)`` float32, downwards.
        unit: ``(B, 1, 1)`` float32, pixels in one unit.

    Every shape lies at the origin and returns ``(B, S, S)``, the signed distance of each pixel centre to its outline
    in pixels, negative inside.
    """

    x: Tensor
    y: Tensor
    unit: Tensor

    @classmethod
    def image(cls, batch: int, size: int) -> "Frame":
        """The image's own frame: (0, 0) is its top left corner and (1, 1) its bottom right one."""
        centre = (torch.arange(size, dtype=torch.float32) + 0.5) / size
        x, y = centre.expand(batch, size, size), centre[:, None].expand(batch, size, size)
        return cls(x, y, torch.full((batch, 1, 1), float(size)))

    def moved(self, x: Number, y: Number) -> "Frame":
        """The frame whose origin is at ``(x, y)`` of this one."""
        return Frame(self.x - x, self.y - y, self.unit)

    def rotated(self, sine: Tensor) -> "Frame":
        """The frame turned clockwise on the picture by the angle of that sine, less than a quarter turn."""
        cosine = (1 - sine * sine).sqrt()
        return Frame(self.x * cosine + self.y * sine, self.y * cosine - self.x * sine, self.unit)

    def scaled(self, length: Tensor) -> "Frame":
        """The frame whose unit is ``length`` of this one's."""
        return Frame(self.x / length, self.y / length, self.unit * length)

    def ellipse(self, rx: Number, ry: Number) -> Tensor:
        """Ellipse of half-axes ``rx`` and ``ry``, to first order around its outline (I. Quilez, "Ellipsoids")."""
        per_x, per_y = 1 / rx, 1 / ry
        u, v = self.x * per_x, self.y * per_y
        f = (u * u + v * v).sqrt()
        u, v = u * per_x, v * per_y
        slope = (u * u + v * v).sqrt()
        # The small terms settle 0/0 at the centre, where the distance is about -ry.
        return (f - 1) * (f + 1e-4) / (slope + 1e-4 * per_y) * self.unit

    def capsule(self, x: Number, y: Number, radius: Number) -> Tensor:
        """All within ``radius`` of the segment from the origin to ``(x, y)``."""
        along = ((self.x * x + self.y * y) / (x * x + y * y)).clamp(0, 1)
        dx, dy = self.x - along * x, self.y - along * y
        return ((dx * dx + dy * dy).sqrt() - radius) * self.unit

    def box(self, half_width: Number, half_height: Number, corner: float = 0.0) -> Tensor:
        """Axis-parallel box with corners rounded by ``corner``."""
        dx, dy = self.x.abs() - half_width + corner, self.y.abs() - half_height + corner
        right, below = dx.clamp(min=0), dy.clamp(min=0)
        inside = torch.maximum(dx, dy).clamp(max=0)
        return ((right * right + below * below).sqrt() + inside - corner) * self.unit

    def above(self) -> Tensor:
        """The half-plane above the origin."""
        return self.y * self.unit

    def peak(self, slope: float) -> Tensor:
        """The wedge below the origin whose sides fall by ``slope``, as a mountain does."""
        return (self.x.abs() * slope - self.y) / math.sqrt(1 + slope * slope) * self.unit


def cover(distance: Tensor) -> Tensor:
    """Share of each pixel that the shape covers, 0 to 1, from its distance in pixels."""
    return (0.5 - distance).clamp(0, 1)


def both(*distances: Tensor) -> Tensor:
    """Distance to what lies in all shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.maximum(result, distance)
    return result


def either(*distances: Tensor) -> Tensor:
    """Distance to what lies in any of the shapes."""
    return -both(*(-distance for distance in distances))


def striped(frame: Frame) -> Tensor:
    """``(B, S, S)`` share of the second colour: upright stripes, two to a unit."""
    return cover((_wave(frame.x) - 0.25) * frame.unit)


def dotted(frame: Frame) -> Tensor:
    """Round dots, one to a square unit."""
    dx, dy = _wave(frame.x), _wave(frame.y)
    return cover(((dx * dx + dy * dy).sqrt() - 0.3) * frame.unit)


def chequered(frame: Frame) -> Tensor:
    """A chess board, two squares to a unit."""
    a, b = striped(frame), striped(Frame(frame.y, frame.x, frame.unit))
    return a * (1 - b) + b * (1 - a)


def grid(frame: Frame) -> Tensor:
    """Thin lines both ways, one to a unit."""
    return cover((torch.minimum(_wave(frame.x), _wave(frame.y)) - 0.1) * frame.unit)


def zigzagged(frame: Frame) -> Tensor:
    """Lying zigzag stripes, two to a unit."""
    bent = frame.y + 1.2 * _wave(frame.x * 0.7)
    return cover((_wave(bent) - 0.25) * frame.unit * 0.77)


def _wave(value: Tensor) -> Tensor:
    """Triangle wave of period 1 from 0 (at 0.5) to 0.5 (at 0 and 1)."""
    return (value - value.floor() - 0.5).abs()
