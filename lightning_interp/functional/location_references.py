"""What location instability would be without a filter that sees anything, and with a perfect one.

This project's own references: the published figures come with none, though on the authors' annotations a filter that
always peaks at the image centre is steadier than the published interpretable networks. All are computed on the very
images that the filter is judged by.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.peaks import Chosen, cell_points, deviation
from lightning_interp.functional.upsampling import Grid


class Deviations(NamedTuple):
    """Location instability of a filter and of what it is to be compared with; all of one shape, float64.

    Attributes:
        filter: The filter itself.
        random: Peaks at independent, uniformly drawn cells: the root of the expected variance, which the mean over
            draws of its root approaches from below.
        centre: Peaks at the centre of the image, always.
        best_constant: Peaks always at one cell, the one with which this number is least.
        oracle: Peaks at the cell next to the landmark: what the map's resolution allows.
    """

    filter: Tensor
    random: Tensor
    centre: Tensor
    best_constant: Tensor
    oracle: Tensor


def diagonal(grid: Grid) -> float:
    """Diagonal of the image in pixels, sqrt(w^2 + h^2)."""
    return float(torch.tensor([grid.rows.size, grid.columns.size], dtype=torch.float64).norm())


class Constants(NamedTuple):
    """The references alone; see :class:`Deviations`."""

    random: Tensor
    centre: Tensor
    best_constant: Tensor
    oracle: Tensor


def deviations(points: Tensor, landmark: Tensor, chosen: Chosen, grid: Grid) -> Deviations:
    """Location instability D_fk of filters for one landmark, with its references.

    Args:
        points: ``(N, F, 2)`` floating point, peaks in pixels.
        landmark: ``(N, 2)`` float64, the landmark in pixels; NaN where absent.
        chosen: The images that each filter is judged by; all must show the landmark.
        grid: The map's place on the image.

    Returns:
        Each ``(F,)``, in image diagonals; NaN for fewer than two images.
    """
    rows, valid = chosen
    at_peaks = points[rows, torch.arange(rows.shape[1])]
    return Deviations(point_deviation(at_peaks, landmark[rows], valid, grid), *constants(landmark, chosen, grid))


def point_deviation(at_peaks: Tensor, landmarks: Tensor, valid: Tensor, grid: Grid) -> Tensor:
    """Location instability alone, ``(F,)``.

    Args:
        at_peaks: ``(T, F, 2)`` floating point, peaks on the images that each filter is judged by.
        landmarks: ``(T, F, 2)`` float64, the landmark there.
        valid: ``(T, F)`` bool, what counts.
        grid: The map's place on the image.
    """
    return deviation((at_peaks - landmarks).norm(dim=2) / diagonal(grid), valid)


def constants(landmark: Tensor, chosen: Chosen, grid: Grid) -> Constants:
    """The references of :func:`deviations`, of the same arguments; they do not depend on the points."""
    rows, valid = chosen
    size = diagonal(grid)
    centre = torch.tensor([grid.columns.size - 1, grid.rows.size - 1], dtype=torch.float64) / 2
    to_centre = (landmark - centre).norm(dim=1) / size
    to_cells = torch.cdist(landmark, cell_points(grid), compute_mode=_EXACT) / size
    return Constants(
        _random(to_cells, chosen),
        deviation(to_centre[rows], valid),
        _best_constant(to_cells, chosen),
        deviation(to_cells.amin(1)[rows], valid),
    )


# The quick way of cdist, by matrix products, is wrong by 1e-8 of the distance's square.
_EXACT = "donot_use_mm_for_euclid_dist"


def membership(chosen: Chosen, num_images: int) -> Tensor:
    """``(F, N)`` float64, 1 where an image is among those of a filter."""
    rows, valid = chosen
    member = torch.zeros(rows.shape[1], num_images, dtype=torch.float64)
    return member.scatter_(1, rows.T, valid.T.double())


def _random(to_cells: Tensor, chosen: Chosen) -> Tensor:
    """Root of the expected variance of distances to independent uniform cells.

    For independent d_i of means m_i and variances v_i, the sample variance is expected to be mean(v) + s^2(m).
    """
    rows, valid = chosen
    mean = to_cells.mean(1)
    spread = (to_cells - mean[:, None]).square().mean(1)
    within = torch.where(valid, spread[rows], 0.0).sum(0) / valid.sum(0)
    return (within + deviation(mean[rows], valid).square()).sqrt()


def _best_constant(to_cells: Tensor, chosen: Chosen) -> Tensor:
    """Least sample standard deviation, over the cells, of the distances to a cell."""
    seen = ~to_cells.isnan().any(1, keepdim=True)
    # Less the mean of all images, for variances are differences of sums here.
    values = torch.where(seen, to_cells - to_cells.nanmean(0), 0.0)
    member = membership(chosen, len(values))
    number = member.sum(1, keepdim=True)
    variance = (member @ values.square() - (member @ values).square() / number) / (number - 1)
    least = variance.clamp(min=0).amin(1).sqrt()
    return least.masked_fill(number[:, 0] < 2, torch.nan)
