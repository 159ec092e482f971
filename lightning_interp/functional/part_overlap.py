"""Whether a filter's valid regions and peaks are on parts: part interpretability and purity.

Part interpretability is from Zhang, Wu and Zhu (CVPR 2018, section 5.2.1), for which no code was published. The
threshold T_f leaves a share of 0.005 of a filter's activations, over all positions of all images, above it
(:func:`~lightning_interp.functional.quantile.upper_quantile`); what exceeds it, at image resolution, is the valid
region; a filter is associated with a part on an image if the two overlap by an IoU above 0.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.class_selectivity import largest_column
from lightning_interp.functional.location_references import membership
from lightning_interp.functional.peaks import Peaks, cell_points, top_images, unscored
from lightning_interp.functional.pixels import active_pixels
from lightning_interp.functional.upsampling import Grid, hot_cells

VALID_SHARE = 0.005
"""P(x > T_f): share of a filter's activations that are valid."""

IOU_THRESHOLD = 0.2
"""A filter is associated with a part on an image if their IoU is above this."""


class ValidPixels(NamedTuple):
    """The pixels of valid regions, each ``(P,)`` int64: image of the batch, filter, pixel of the mask grid."""

    image: Tensor
    unit: Tensor
    pixel: Tensor


def valid_pixels(maps: Tensor, thresholds: Tensor, grid: Grid) -> ValidPixels:
    """Valid regions by bilinear upsampling, as in Network Dissection.

    Args:
        maps: ``(B, F, h, w)`` float32, finite.
        thresholds: ``(F,)`` float64, T_f; NaN for a filter without valid regions.
        grid: The map's place on the grid of the part masks.
    """
    parts = []
    # One image at a time: a cell's pixels take a hundred times the memory of its corners.
    for image in range(len(maps)):
        cells = hot_cells(maps[image : image + 1], maps[image : image + 1].amax((2, 3)), thresholds, grid)
        first, unit, pixel = active_pixels(cells, thresholds, grid)
        parts.append((first + image, unit, pixel))
    return ValidPixels(*(torch.cat(field) for field in zip(*parts, strict=True)))


def part_ious(valid: ValidPixels, parts: Tensor, num_filters: int) -> Tensor:
    """IoU of every filter's valid region with every part, image by image.

    Args:
        valid: Valid pixels, each once.
        parts: ``(B, K, H, W)`` bool, part masks.
        num_filters: F.

    Returns:
        ``(B, F, K)`` float64; NaN where the image does not show the part.
    """
    number, num_parts = parts.shape[:2]
    masks = parts.flatten(2)
    row = valid.image * num_filters + valid.unit
    hits = torch.zeros(number * num_filters, num_parts, dtype=torch.float64, device=parts.device)
    hits.index_add_(0, row, masks.transpose(1, 2)[valid.image, valid.pixel].double())
    intersection = hits.view(number, num_filters, num_parts)
    own = torch.bincount(row, minlength=len(hits)).view(number, num_filters, 1)
    area = masks.sum(2)[:, None]
    return (intersection / (own + area - intersection)).masked_fill(area == 0, torch.nan)


@dataclass(frozen=True)
class PartInterpretability:
    """Part interpretability of a layer; F filters, K parts.

    Args:
        by_part: ``(F, K)`` float64, P_fk: share of the images of the filter's category that show part k on which the
            filter is associated with it; NaN for parts that none shows and for filters without a category.
        by_filter: ``(F,)`` float64, P_f = max_k P_fk.
        part: ``(F,)`` int64, the part of P_f, the first of equals; -1 for filters without a category.
        mean: mean_f P_f over the filters that have a category.
    """

    by_part: Tensor
    by_filter: Tensor
    part: Tensor
    mean: float


def part_interpretability(associated: Tensor, images: Tensor, category: Tensor) -> PartInterpretability:
    """Scores from counts; with those of re-paired images, what chance gives.

    Args:
        associated: ``(F, C, K)`` int64, images of each category on which a filter is associated with a part.
        images: ``(C, K)`` int64, images of the category that show the part.
        category: ``(F,)`` int64, category of each filter (the largest class mean of its activation); -1 for one that
            is dead or not finite.
    """
    without = category < 0
    at = category.clamp(min=0)
    share = associated[torch.arange(len(at), device=at.device), at].double() / images[at]
    share = share.masked_fill(without[:, None], torch.nan)
    part = largest_column(share)
    best = share.gather(1, part.clamp(min=0)[:, None])[:, 0]
    return PartInterpretability(share, best, part, float(best.nanmean()))


def covered_cells(parts: Tensor, grid: Grid) -> Tensor:
    """Which parts lie under the centre of each cell's receptive field.

    Args:
        parts: ``(B, K, H, W)`` bool, part masks or filled boxes.
        grid: The map's place on their grid. Centres outside it are taken at its border.

    Returns:
        ``(B, K, h * w)`` bool.
    """
    points = (cell_points(grid) + 0.5).floor().long().to(parts.device)
    x, y = points[:, 0].clamp(0, parts.shape[3] - 1), points[:, 1].clamp(0, parts.shape[2] - 1)
    return parts[:, :, y, x]


@dataclass(frozen=True)
class PartPurity:
    """How many of a filter's strongest peaks lie on one part; F filters, K parts.

    Args:
        by_part: ``(F, K)`` float64, share of the filter's top images, among those that show the part, whose peak lies
            on it; NaN without such images and for filters that are dead or not finite.
        area: ``(F, K)`` float64, share of the cells that the part covers on the same images: a random peak.
        best_constant: ``(F, K)`` float64, largest share of them that one cell has: a peak that never moves.
        part: ``(F,)`` int64, part of the largest purity, the first of equals; -1 if there is none.
    """

    by_part: Tensor
    area: Tensor
    best_constant: Tensor
    part: Tensor

    def summary(self) -> dict[str, float]:
        """Means over filters, at the best part of each: ``purity``, ``area``, ``best_constant``; ``beats_constant``."""
        known = (self.part >= 0).nonzero()[:, 0]
        own, area, constant = (
            table[known, self.part[known]] for table in (self.by_part, self.area, self.best_constant)
        )
        names = ("purity", "area", "best_constant", "beats_constant")
        return dict(
            zip(names, (float(v.mean()) for v in (own, area, constant, (own > constant).double())), strict=True)
        )


def part_purity(peaks: Peaks, covered: Tensor, shown: Tensor, top_k: int = 100) -> PartPurity:
    """Share of peaks on the best part; the automatic stand-in for purity judged by people (Zhang et al., AAAI 2018).

    The references are this project's own.

    Args:
        peaks: Of N images, all seen.
        covered: ``(N, K, h * w)`` bool, of :func:`covered_cells`.
        shown: ``(N, K)`` bool, which images show the part.
        top_k: Images a filter.
    """
    return cell_purity([peaks.cell], peaks.value, covered, shown, top_k)[0]


def cell_purity(
    cells: Sequence[Tensor], value: Tensor, covered: Tensor, shown: Tensor, top_k: int = 100
) -> list[PartPurity]:
    """The same for several cells of the same filters on the same images.

    Args:
        cells: Each ``(N, F)`` int64. An image where the first of them is -1 does not count; there the others may be
            anything.
        value: ``(N, F)``, by which images are ranked.
        covered: See :func:`part_purity`, as for what follows.
        shown: Which images show the part.
        top_k: Images a filter.

    Returns:
        As many as cells.
    """
    dead, nonfinite = unscored(value)
    located = (cells[0] >= 0) & ~(dead | nonfinite)
    tables: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in cells]
    for part, visible in zip(covered.unbind(1), shown.unbind(1), strict=True):
        chosen = top_images(value, located & visible[:, None], top_k)
        number = chosen.valid.sum(0)
        by_cell = membership(chosen, len(part)) @ part.double()
        references = by_cell.mean(1) / number, by_cell.amax(1) / number
        for table, cell in zip(tables, cells, strict=True):
            on_part = part[chosen.rows, cell.gather(0, chosen.rows).clamp(min=0)] & chosen.valid
            table.append((on_part.sum(0).double() / number, *references))
    found = []
    for columns in tables:
        own, area, constant = (torch.stack(values, 1) for values in zip(*columns, strict=True))
        found.append(PartPurity(own, area, constant, largest_column(own)))
    return found
