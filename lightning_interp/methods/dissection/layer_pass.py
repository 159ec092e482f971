"""One layer's running dissection: thresholds, surviving cells, tallies and top images, in one forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interp.functional.pixels import active_pixels
from lightning_interp.functional.regions import RegionBatch
from lightning_interp.functional.upsampling import Cells, Grid
from lightning_interp.methods.dissection.options import DissectionOptions
from lightning_interp.probing.agreement import ConceptAgreement
from lightning_interp.probing.cells import CellPass, cell_chunks
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.top_images import TopActivations


@dataclass(frozen=True)
class LabelledBatch:
    """Labels of the images of one batch, their own and those of the images they are re-paired with."""

    own: tuple[RegionBatch, Tensor]
    partner: tuple[RegionBatch, Tensor] | None


class LayerPass(CellPass[LabelledBatch]):
    """Counts a layer's active pixels against concepts and keeps each unit's top images.

    Args:
        info: Shape of the maps.
        grid: Their place on the mask grid.
        options: Definitions.
        num_images: Images of the whole probe set.
        num_concepts: C.
        num_categories: G.
        top_k: Images to keep a unit.
        byte_budget: Bytes that may be spent on surviving cells.
        device: Where the maps are.
        sync: torchmetrics' arguments on how to meet other processes.
    """

    def __init__(
        self,
        info: LayerInfo,
        grid: Grid,
        options: DissectionOptions,
        *,
        num_images: int,
        num_concepts: int,
        num_categories: int,
        top_k: int,
        byte_budget: int,
        device: torch.device,
        sync: Mapping[str, Any],
    ) -> None:
        super().__init__(
            info,
            grid,
            quantile=options.quantile,
            quantile_on=options.quantile_on,
            num_images=num_images,
            byte_budget=byte_budget,
            device=device,
            sync=sync,
        )
        self.top = TopActivations(info.units, info.height, info.width, top_k, **sync).to(device)
        shape = (info.units, num_concepts, num_categories)
        self.agreement = ConceptAgreement(*shape, **sync).to(device)
        self.chance = ConceptAgreement(*shape, **sync).to(device)

    def look(self, maps: Tensor, peaks: Tensor, indices: Tensor) -> None:
        """Keep the top images."""
        self.top.update(maps, peaks, indices)

    def count(self, cells: Cells, labels: LabelledBatch) -> None:
        """Count the active pixels of a batch, against its labels and those it is re-paired with."""
        for chunk in cell_chunks(cells, self.grid):
            pixels = active_pixels(chunk, self.thresholds, self.grid)
            self.agreement.update(*pixels, *labels.own)
            if labels.partner is not None:
                self.chance.update(*pixels, *labels.partner)
