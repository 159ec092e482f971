"""Pixel counts of units against concepts, as sums that torchmetrics reduces over processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.functional.pixels import add_areas, add_concepts
from lightning_interp.functional.regions import RegionBatch


class ConceptAgreement(Metric):
    """I and A of Network Dissection over a probe set (:mod:`lightning_interp.functional.pixels`).

    States, all int64 and reduced by sum: ``intersection`` ``(U, C)``, ``unit_area`` ``(U, G)``.
    """

    full_state_update = False
    intersection: Tensor
    unit_area: Tensor

    def __init__(self, num_units: int, num_concepts: int, num_categories: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("intersection", torch.zeros(num_units, num_concepts, dtype=torch.int64), "sum")
        self.add_state("unit_area", torch.zeros(num_units, num_categories, dtype=torch.int64), "sum")

    def update(self, row: Tensor, unit: Tensor, pixel: Tensor, labels: RegionBatch, members: Tensor) -> None:
        """Add the active pixels ``(row, unit, pixel)`` of some images with their labels and category members."""
        add_concepts(self.intersection, row, unit, pixel, labels)
        add_areas(self.unit_area, row, unit, members)

    def compute(self) -> tuple[Tensor, Tensor]:
        """``(intersection, unit_area)`` over all processes."""
        return self.intersection, self.unit_area


class ConceptArea(Metric):
    """G of Network Dissection and the pixels that could count.

    States, int64 and reduced by sum: ``concept`` ``(C,)``, ``pixels`` ``(G,)``.
    """

    full_state_update = False
    concept: Tensor
    pixels: Tensor

    def __init__(self, num_concepts: int, num_categories: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("concept", torch.zeros(num_concepts, dtype=torch.int64), "sum")
        self.add_state("pixels", torch.zeros(num_categories, dtype=torch.int64), "sum")

    def update(self, concept: Tensor, pixels: Tensor) -> None:
        """Add the areas of some images."""
        self.concept += concept
        self.pixels += pixels

    def compute(self) -> tuple[Tensor, Tensor]:
        """``(concept, pixels)`` over all processes."""
        return self.concept, self.pixels
