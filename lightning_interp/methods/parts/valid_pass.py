"""One layer's valid regions against part masks, in one forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interp.functional.part_overlap import VALID_SHARE, ValidPixels
from lightning_interp.functional.pixels import active_pixels
from lightning_interp.functional.upsampling import Cells, Grid
from lightning_interp.methods.parts.overlap_sums import PartAssociations
from lightning_interp.probing.cells import CellPass, cell_chunks
from lightning_interp.probing.layers import LayerInfo


@dataclass(frozen=True)
class PartLabels:
    """Part masks and categories of the images of one batch.

    Args:
        parts: ``(n, K, H, W)`` bool.
        others: The same of the images that they are re-paired with; empty masks where there is none.
        category: ``(n,)`` int64.
    """

    parts: Tensor
    others: Tensor
    category: Tensor


class ValidPass(CellPass[PartLabels]):
    """Counts on how many images each filter's valid region overlaps each part: part interpretability.

    Zhang, Wu and Zhu (CVPR 2018, section 5.2.1), with valid regions by bilinear upsampling
    (:func:`~lightning_interp.functional.part_overlap.valid_pixels`). The chance level is this project's own.

    Args:
        info: Shape of the maps.
        grid: Their place on the grid of the part masks.
        num_images: Images of the whole probe set.
        num_categories: C, categories of images.
        num_parts: K.
        byte_budget: Bytes that may be spent on surviving cells.
        device: Where the maps are.
        sync: torchmetrics' arguments on how to meet other processes.

    Attributes:
        associations: Counts with the images' own parts.
        chance: Counts with those of the images that they are re-paired with.
    """

    def __init__(
        self,
        info: LayerInfo,
        grid: Grid,
        *,
        num_images: int,
        num_categories: int,
        num_parts: int,
        byte_budget: int,
        device: torch.device,
        sync: Mapping[str, Any],
    ) -> None:
        super().__init__(
            info,
            grid,
            quantile=VALID_SHARE,
            quantile_on="low",
            num_images=num_images,
            byte_budget=byte_budget,
            device=device,
            sync=sync,
        )
        shape = (info.units, num_categories, num_parts)
        self.associations = PartAssociations(*shape, **sync).to(device)
        self.chance = PartAssociations(*shape, **sync).to(device)

    def count(self, cells: Cells, labels: PartLabels) -> None:
        """Count the associations on the images of a batch."""
        for image, category in enumerate(torch.split(labels.category, 1)):
            # One image at a time: its pixels take a hundred times the memory of its cells.
            own = cells.where(cells.image == image)
            pixels = [active_pixels(chunk, self.thresholds, self.grid) for chunk in cell_chunks(own, self.grid)]
            _, unit, pixel = (torch.cat(field) for field in zip(*pixels, strict=True))
            valid = ValidPixels(torch.zeros_like(unit), unit, pixel)
            self.associations.update(valid, labels.parts[image : image + 1], category)
            self.chance.update(valid, labels.others[image : image + 1], category)
