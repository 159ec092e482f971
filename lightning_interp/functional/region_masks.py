"""Masks of some concepts, from the compact form in which labels are kept."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.functional.regions import RegionBatch


def region_masks(labels: RegionBatch, concepts: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Where some concepts lie on the images of a batch.

    Args:
        labels: Regions of n images.
        concepts: K different columns, as ``labels.concept`` counts them.
        size: ``(h, w)`` of the mask grid.

    Returns:
        ``(n, K, h, w)`` bool.
    """
    regions = len(labels.start) - 1
    region = torch.arange(regions, device=labels.start.device).repeat_interleave(labels.start.diff())
    carries = [region[labels.concept == concept] for concept in concepts]
    table = torch.zeros(len(concepts), regions, dtype=torch.bool, device=region.device)
    for own, which in zip(table, carries, strict=True):
        own[which] = True
    return table[:, labels.map].transpose(0, 1).reshape(-1, len(concepts), *size)
