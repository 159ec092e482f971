"""Overlaps of filters with parts, as sums and rows that torchmetrics reduces over processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.functional.part_overlap import IOU_THRESHOLD, ValidPixels, covered_cells, part_ious
from lightning_interp.functional.upsampling import Grid


class PartAssociations(Metric):
    """On how many images each filter is associated with each part.

    States, int64 and reduced by sum: ``associated`` ``(F, C, K)``; ``images`` ``(C, K)``, those that show the part.

    Args:
        num_filters: F.
        num_categories: C, categories of images.
        num_parts: K.
        **kwargs: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    associated: Tensor
    images: Tensor

    def __init__(self, num_filters: int, num_categories: int, num_parts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shape = (num_filters, num_categories, num_parts)
        self.add_state("associated", torch.zeros(shape, dtype=torch.int64), "sum")
        self.add_state("images", torch.zeros(shape[1:], dtype=torch.int64), "sum")

    def update(self, valid: ValidPixels, parts: Tensor, category: Tensor) -> None:
        """Add the images of a batch.

        Args:
            valid: Valid pixels of the batch.
            parts: ``(B, K, H, W)`` bool, part masks of the same images; for the level of chance, in a metric of its
                own, those of the images they are re-paired with
                (:func:`~lightning_interp.functional.pixels.cyclic_partners`).
            category: ``(B,)`` int64.
        """
        ious = part_ious(valid, parts, len(self.associated))
        self.associated.index_add_(1, category, (ious > IOU_THRESHOLD).long().transpose(0, 1))
        self.images.index_add_(0, category, parts.flatten(2).any(2).long())

    def compute(self) -> tuple[Tensor, Tensor]:
        """``(associated, images)`` over all processes."""
        return self.associated, self.images


class PartCoverage(Metric):
    """Which cells of a layer's map lie on which part, on every image: what purity needs beside the peaks.

    State: ``coverage`` ``(N, K, h * w)`` int8, 1 on the part, 0 beside it, -1 where the image does not show it or was
    not seen; joined over processes by the maximum, as the rows of
    :class:`~lightning_interp.methods.parts.peak_locations.PeakLocations`.

    Args:
        num_images: N, images of the probe set.
        num_parts: K.
        grid: The map's place on the grid of the part masks.
        **kwargs: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    coverage: Tensor

    def __init__(self, num_images: int, num_parts: int, grid: Grid, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid
        shape = (num_images, num_parts, grid.rows.length * grid.columns.length)
        self.add_state("coverage", torch.full(shape, -1, dtype=torch.int8), "max")

    def update(self, parts: Tensor, indices: Tensor) -> None:
        """Take in part masks ``(B, K, H, W)`` bool of the images ``(B,)``."""
        shown = parts.flatten(2).any(2)
        self.coverage[indices] = covered_cells(parts, self.grid).to(torch.int8).masked_fill(~shown[..., None], -1)

    def compute(self) -> tuple[Tensor, Tensor]:
        """``(covered, shown)``: ``(N, K, h * w)`` and ``(N, K)`` bool, over all processes."""
        return self.coverage == 1, (self.coverage >= 0).all(2)
