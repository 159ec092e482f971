"""Peaks of filters on all images, gathered over processes."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.functional.peaks import find_peaks


class PeakLocations(Metric):
    """Peak value, its place and the mean activation of every filter on every image.

    Each image has its own row, and rows are joined over processes by their maximum: neither the order of images nor
    those that several processes see (samplers pad) change anything.

    States: ``value`` ``(N, F)`` float32, ``cell`` ``(N, F)`` int32, ``mean`` ``(N, F)`` float32; ``-inf`` or -1 where
    not seen.

    Args:
        num_images: N, images of the probe set.
        num_filters: F.
        **kwargs: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    value: Tensor
    cell: Tensor
    mean: Tensor

    def __init__(self, num_images: int, num_filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("value", torch.full((num_images, num_filters), -math.inf), "max")
        self.add_state("cell", torch.full((num_images, num_filters), -1, dtype=torch.int32), "max")
        self.add_state("mean", torch.full((num_images, num_filters), -math.inf), "max")

    def update(self, maps: Tensor, indices: Tensor) -> None:
        """Take in maps ``(B, F, h, w)`` of the images ``(B,)``; the mean is that of what is above 0."""
        peaks = find_peaks(maps)
        mean = maps.float().clamp(min=0).mean((2, 3))
        self.value[indices] = peaks.value
        self.cell[indices] = peaks.cell.int()
        self.mean[indices] = mean.masked_fill(peaks.value == -math.inf, -math.inf)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(value, cell, mean)`` over all processes, ``cell`` as int64; the first two make a ``Peaks``."""
        return self.value, self.cell.long(), self.mean
