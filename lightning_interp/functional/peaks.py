"""Where filters peak, how steadily they do so beside a landmark, and whether they move as it moves.

Location instability is from Zhang, Wu and Zhu (CVPR 2018, section 5.2.2), and in its earlier form from Zhang, Cao,
Shi, Wu and Zhu (AAAI 2018). The correlation and the R^2 of displacements are this project's own: instability rewards a
filter that never moves, they give it 0.

Points and landmarks are ``(x, y)`` in pixels of the image, pixel centres at whole numbers.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.upsampling import Grid


class Peaks(NamedTuple):
    """The peak of every filter on every image.

    Attributes:
        value: ``(N, F)`` float32, the largest activation; ``-inf`` where a map is not finite or was not seen.
        cell: ``(N, F)`` int64, its place in the map, row-major; the first of equals; -1 without a peak: where the map
            is constant (all zero after ReLU, say), not finite or not seen.
    """

    value: Tensor
    cell: Tensor


class Chosen(NamedTuple):
    """The images that a filter is judged by.

    Attributes:
        rows: ``(T, F)`` int64, images of each filter by falling peak.
        valid: ``(T, F)`` bool, which of these entries count.
    """

    rows: Tensor
    valid: Tensor


def find_peaks(maps: Tensor) -> Peaks:
    """Peaks of a batch of maps.

    Equal maxima go to the first in row-major order (the published code, which walks along columns, takes the first of
    those), the same on every device.

    Args:
        maps: ``(B, F, h, w)`` floating point.

    Raises:
        ValueError: If the maps are of another shape, or empty.

    Example:
        >>> find_peaks(torch.tensor([[[[0.0, 2.0], [2.0, 1.0]]]]))
        Peaks(value=tensor([[2.]]), cell=tensor([[1]]))
    """
    if maps.ndim != 4 or not maps.shape[2] * maps.shape[3]:
        raise ValueError(f"maps of shape {tuple(maps.shape)}; give (B, F, h, w)")
    flat = maps.flatten(2).float()
    low, high = flat.amin(2), flat.amax(2)
    finite = low.isfinite() & high.isfinite()
    place = torch.arange(flat.shape[2], device=maps.device)
    # argmax promises no order among equals.
    first = torch.where(flat == high[..., None], place, len(place)).amin(2)
    return Peaks(high.masked_fill(~finite, -math.inf), torch.where(finite & (low < high), first, -1))


class Unscored(NamedTuple):
    """Filters that get no score, each ``(F,)`` bool.

    Attributes:
        dead: Never above 0, and finite on all images.
        nonfinite: With a NaN or an infinity on some image.
    """

    dead: Tensor
    nonfinite: Tensor


def unscored(value: Tensor) -> Unscored:
    """Filters that are dead or not finite.

    Args:
        value: ``(N, F)``, peaks of images that were seen, as in :class:`Peaks`.
    """
    nonfinite = (value == -math.inf).any(0)
    return Unscored(~(value > 0).any(0) & ~nonfinite, nonfinite)


def cell_points(grid: Grid) -> Tensor:
    """``(h * w, 2)`` float64, centre of the receptive field of every cell: first + i * step along each axis."""
    rows, columns = (torch.tensor(axis.anchors, dtype=torch.float64) for axis in (grid.rows, grid.columns))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def peak_points(cell: Tensor, grid: Grid) -> Tensor:
    """Peaks in pixels of the image.

    Args:
        cell: ``(N, F)`` int64, of :class:`Peaks`.
        grid: The map's place on the image.

    Returns:
        ``(N, F, 2)`` float64; NaN where there is no peak.
    """
    points = cell_points(grid).to(cell.device)[cell.clamp(min=0)]
    return points.masked_fill((cell < 0)[..., None], math.nan)


def top_images(value: Tensor, eligible: Tensor, k: int) -> Chosen:
    """The k images on which each filter peaks highest; of equal peaks the lower row.

    Args:
        value: ``(N, F)``, peaks.
        eligible: ``(N, F)`` bool, which images may be taken.
        k: Images a filter; fewer where fewer are eligible.
    """
    score = value.masked_fill(~eligible, -math.inf)
    rows = score.argsort(dim=0, descending=True, stable=True)[:k]
    return Chosen(rows, eligible.gather(0, rows))


def deviation(values: Tensor, valid: Tensor) -> Tensor:
    """Sample standard deviation (N - 1) of each column.

    Args:
        values: ``(T, F)`` float64.
        valid: ``(T, F)`` bool, what counts.

    Returns:
        ``(F,)`` float64; NaN for fewer than two entries.

    Example:
        >>> deviation(torch.tensor([[3.0], [5.0], [7.0]]), torch.ones(3, 1, dtype=torch.bool))
        tensor([2.], dtype=torch.float64)
    """
    number = valid.sum(0)
    squares = _centred(values, valid).square().sum(0)
    return (squares / (number - 1)).sqrt().masked_fill(number < 2, math.nan)


class Displacement(NamedTuple):
    """How a filter moves with a landmark, each ``(F,)`` float64; NaN for fewer than two images.

    Attributes:
        correlation: Sum over both axes of the covariances of peak and landmark, over the root of the product of their
            total variances: in [-1, 1], 0 for a peak that never moves.
        r2: ``1 - var(landmark - peak) / var(landmark)`` with total variances: how well the peak, with a fixed offset,
            predicts the landmark. At most 1, 0 for a peak that never moves, negative for one that moves for no reason.
            NaN, as the correlation, if the landmark never moves.
    """

    correlation: Tensor
    r2: Tensor


def displacement(points: Tensor, landmarks: Tensor, valid: Tensor) -> Displacement:
    """Whether a filter's peak is displaced from its mean as the landmark is from its own.

    Args:
        points: ``(T, F, 2)`` float64, peaks.
        landmarks: ``(T, F, 2)`` float64, the landmark on the same images.
        valid: ``(T, F)`` bool, what counts.
    """
    both = valid[..., None]
    peak, landmark = (_centred(places, both.expand_as(places)) for places in (points, landmarks))
    joint, own, other = ((a * b).sum(0).sum(1) for a, b in ((peak, landmark), (peak, peak), (landmark, landmark)))
    undefined = (valid.sum(0) < 2) | (other == 0)
    # A peak that never moves has no covariance either: 0 / 1, not 0 / 0.
    correlation = joint / torch.where(own > 0, own.sqrt() * other.sqrt(), 1.0)
    return Displacement(
        correlation.clamp(-1, 1).masked_fill(undefined, math.nan),
        ((2 * joint - own) / other).masked_fill(undefined, math.nan),
    )


def _centred(values: Tensor, valid: Tensor) -> Tensor:
    """Values less their mean along the first axis, 0 where they do not count."""
    if not len(values):
        return values.double()
    values = torch.where(valid, values.double(), math.inf)
    # From the least of them, so that equal values are exactly 0 apart, whatever their mean rounds to.
    values = torch.where(valid, values - values.amin(0), 0.0)
    return torch.where(valid, values - values.sum(0) / valid.sum(0).clamp(min=1), 0.0)
