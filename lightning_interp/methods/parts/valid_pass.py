"""One layer's valid regions against part masks, in one forward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.functional.part_overlap import IOU_THRESHOLD, VALID_SHARE, ValidPixels, part_ious
from lightning_interp.functional.pixels import active_pixels
from lightning_interp.functional.upsampling import Cells, Grid
from lightning_interp.probing.cells import CellPass, cell_chunks
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sums import Sums


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

    The counts, int64, are the sums ``"<layer>: associated"`` ``(F, C, K)`` and ``"<layer>: images"`` ``(C, K)``, those
    that show the part; those by chance, against the parts of the images that they are re-paired with
    (:func:`~lightning_interp.functional.pixels.cyclic_partners`), are ``"<layer>: chance associated"`` and
    ``"<layer>: chance images"``.

    Args:
        sums: Where the counts go.
        info: Shape of the maps.
        grid: Their place on the grid of the part masks.
        num_images: Images of the whole probe set.
        num_categories: C, categories of images.
        num_parts: K.
        byte_budget: Bytes that may be spent on surviving cells.
        device: Where the maps are.
        ranks: The processes that share the images.
    """

    def __init__(
        self,
        sums: Sums,
        info: LayerInfo,
        grid: Grid,
        *,
        num_images: int,
        num_categories: int,
        num_parts: int,
        byte_budget: int,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        super().__init__(
            info,
            grid,
            quantile=VALID_SHARE,
            quantile_on="low",
            num_images=num_images,
            byte_budget=byte_budget,
            device=device,
            ranks=ranks,
        )
        self.sums = sums
        none = torch.zeros(info.units, num_categories, num_parts, dtype=torch.int64, device=device)
        for kind in ("", "chance "):
            sums.add(f"{info.name}: {kind}associated", none.clone())
            sums.add(f"{info.name}: {kind}images", none.sum(0))

    def count(self, cells: Cells, labels: PartLabels) -> None:
        """Count the associations on the images of a batch."""
        for image, category in enumerate(torch.split(labels.category, 1)):
            # One image at a time: its pixels take a hundred times the memory of its cells.
            own = cells.where(cells.image == image)
            pixels = [active_pixels(chunk, self.thresholds, self.grid) for chunk in cell_chunks(own, self.grid)]
            _, unit, pixel = (torch.cat(field) for field in zip(*pixels, strict=True))
            valid = ValidPixels(torch.zeros_like(unit), unit, pixel)
            self._associate("", valid, labels.parts[image : image + 1], category)
            self._associate("chance ", valid, labels.others[image : image + 1], category)

    def _associate(self, kind: str, valid: ValidPixels, parts: Tensor, category: Tensor) -> None:
        """Add the associations of valid regions with parts ``(n, K, H, W)`` bool on images of categories ``(n,)``."""
        associated, images = (self.sums[f"{self.info.name}: {kind}{what}"] for what in ("associated", "images"))
        hits = part_ious(valid, parts, self.info.units) > IOU_THRESHOLD
        associated.index_add_(1, category, hits.long().transpose(0, 1))
        images.index_add_(0, category, parts.flatten(2).any(2).long())
