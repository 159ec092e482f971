"""Where the values of a low-resolution map lie on the mask grid, and bilinear upsampling cell by cell."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Border = Literal["hold", "zero"]


@dataclass(frozen=True)
class Axis:
    """One axis of a regular map on a pixel grid.

    The map's value ``i`` lies at pixel ``first + i * step`` (pixel centres at whole numbers). With one value of
    padding at each end, the ``length`` values bound ``length + 1`` cells; every pixel lies in exactly one.

    Args:
        length: Values of the map along the axis.
        size: Pixels along the axis.
        first: Pixel position of the first value.
        step: Pixels between two values, above 0.
        border: Outside the values: ``"hold"`` the nearest one, or ``"zero"``: fade to zero within one step.
    """

    length: int
    size: int
    first: float
    step: float
    border: Border = "hold"

    @classmethod
    def cells(cls, length: int, size: int, border: Border = "hold") -> "Axis":
        """Values at the centres of equal cells, as in ``interpolate(align_corners=False)``.

        Example:
            >>> Axis.cells(7, 112).anchors[:3]
            (7.5, 23.5, 39.5)
        """
        return cls(length, size, (size / length - 1) / 2, size / length, border)

    def resized(self, pixels: int) -> "Axis":
        """The same places in proportion on so many pixels."""
        scale = pixels / self.size
        return replace(self, size=pixels, first=(self.first + 0.5) * scale - 0.5, step=self.step * scale)

    @property
    def anchors(self) -> tuple[float, ...]:
        """Pixel position of every value."""
        return tuple(self.first + i * self.step for i in range(self.length))

    @cached_property
    def pixels(self) -> tuple[Tensor, Tensor]:
        """``(cell, weight)`` of every pixel: int64 in [0, length], and float64 of the cell's far value."""
        position = (torch.arange(self.size, dtype=torch.float64) - self.first) / self.step
        if self.border == "zero":
            position = position.clamp(-1, self.length)
            cell = (position.floor().long() + 1).clamp(max=self.length)
            return cell, position - (cell - 1)
        cell = (position.clamp(0, self.length - 1).floor().long() + 1) * (position >= 0)
        weight = torch.where(position < 0, 1.0, position.clamp(0, self.length - 1) - (cell - 1))
        return cell, weight

    @cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """``(start, weights)`` by cell: first pixel ``(length + 1,)``, and float64 weights, NaN past the cell."""
        cell, weight = self.pixels
        count = torch.bincount(cell, minlength=self.length + 1)
        start = count.cumsum(0) - count
        weights = torch.full((self.length + 1, int(count.max())), torch.nan, dtype=torch.float64)
        weights[cell, torch.arange(self.size) - start[cell]] = weight
        return start, weights


@dataclass(frozen=True)
class Grid:
    """A low-resolution map's rows and columns on the mask grid."""

    rows: Axis
    columns: Axis

    def resized(self, size: tuple[int, int]) -> "Grid":
        """The same places in proportion on a grid of ``(h, w)`` pixels."""
        return Grid(*(axis.resized(pixels) for axis, pixels in zip((self.rows, self.columns), size, strict=True)))

    def pad(self, maps: Tensor) -> Tensor:
        """``(..., h, w)`` with one value more on each side, as the border rule has it."""
        mode = "replicate" if self.rows.border == "hold" else "constant"
        # Maps go along the batch, the one dimension that may be empty: a batch may hold no map worth a look.
        flat = maps.reshape(-1, 1, *maps.shape[-2:])
        padded = torch.nn.functional.pad(flat, (1, 1, 1, 1), mode=mode)
        return padded.reshape(*maps.shape[:-2], *padded.shape[-2:])


class Cells(NamedTuple):
    """Some cells of some maps: the 2x2 values around a patch of pixels.

    Attributes:
        image: ``(M,)`` int64, which image.
        unit: ``(M,)`` int64, which unit.
        place: ``(M,)`` int64, cell number, row-major over ``(h + 1, w + 1)`` cells.
        corners: ``(M, 4)``, values at upper left, upper right, lower left, lower right.
    """

    image: Tensor
    unit: Tensor
    place: Tensor
    corners: Tensor

    def where(self, keep: Tensor) -> "Cells":
        """The cells selected by a mask or by indices."""
        rows = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        return Cells(*(part.index_select(0, rows) for part in self))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.numel() * part.element_size() for part in self)


def hot_cells(maps: Tensor, peaks: Tensor, bound: Tensor, grid: Grid) -> Cells:
    """Cells with a corner above the bound of their unit: only they can hold a pixel above it.

    Bilinear interpolation is a convex combination of the four corners, so nothing else can.

    Args:
        maps: ``(B, U, h, w)`` float32.
        peaks: ``(B, U)``, each map's maximum.
        bound: ``(U,)`` float64.
        grid: The map's place on the mask grid.

    Returns:
        Cells whose ``image`` counts from 0 within the batch.
    """
    # A zero border can raise the maximum of a negative map.
    reach = peaks.clamp(min=0) if grid.rows.border == "zero" else peaks
    image, unit = (reach > bound).nonzero(as_tuple=True)
    padded = grid.pad(maps[image, unit])
    hot = padded > bound[unit, None, None]
    rows = hot[:, :-1] | hot[:, 1:]
    which, row, column = (rows[:, :, :-1] | rows[:, :, 1:]).nonzero(as_tuple=True)
    width = padded.shape[2]
    at = (which * padded.shape[1] + row) * width + column
    corners = padded.flatten().take(torch.stack([at, at + 1, at + width, at + width + 1], 1))
    return Cells(image[which], unit[which], row * (width - 1) + column, corners)


class Patches(NamedTuple):
    """Upsampled pixels of some cells.

    Attributes:
        values: ``(M, a, b)`` float64, NaN past the end of smaller cells.
        pixel: ``(M, a, b)`` int64, pixel number, row-major over the mask grid.
    """

    values: Tensor
    pixel: Tensor


def upsample_cells(cells: Cells, grid: Grid) -> Patches:
    """Bilinear values at every pixel of the cells, in float64, never outside the range of the four corners.

    Weighing both ends (``a * (1 - t) + b * t``) can round to above both, so that a saturated map would exceed its
    own plateau; ``lerp`` cannot.

    Args:
        cells: M cells.
        grid: The map's place on the mask grid.
    """
    device = cells.corners.device
    columns_of = grid.columns.length + 1
    row, column = cells.place // columns_of, cells.place % columns_of
    row_start, row_weights = (t.to(device) for t in grid.rows.table)
    column_start, column_weights = (t.to(device) for t in grid.columns.table)
    corner = cells.corners.double()
    far = column_weights[column]
    upper = torch.lerp(corner[:, 0:1], corner[:, 1:2], far)
    lower = torch.lerp(corner[:, 2:3], corner[:, 3:4], far)
    values = torch.lerp(upper[:, None], lower[:, None], row_weights[row][:, :, None])
    y = row_start[row][:, None] + torch.arange(row_weights.shape[1], device=device)
    x = column_start[column][:, None] + torch.arange(column_weights.shape[1], device=device)
    return Patches(values, y[:, :, None] * grid.columns.size + x[:, None])


def upsample(maps: Tensor, grid: Grid) -> Tensor:
    """Whole maps on the mask grid.

    Args:
        maps: ``(..., h, w)``.
        grid: The map's place on the mask grid.

    Returns:
        ``(..., H, W)`` float64; with cell anchors and a held border equal to
        ``interpolate(maps.double(), mode="bilinear", align_corners=False)``.
    """
    padded = grid.pad(maps.double())
    (row, down), (column, far) = grid.rows.pixels, grid.columns.pixels
    row, down, column, far = (t.to(maps.device) for t in (row, down, column, far))
    along = torch.lerp(padded[..., column], padded[..., column + 1], far)
    return torch.lerp(along[..., row, :], along[..., row + 1, :], down[:, None])
