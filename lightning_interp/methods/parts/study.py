"""One measurement of filters against parts under way: the steps between which the processes agree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.data.loading import ProbeBatch
from lightning_interp.functional.part_overlap import covered_cells
from lightning_interp.functional.peaks import Peaks, find_peaks
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.functional.regions import region_masks
from lightning_interp.methods.parts.valid_pass import PartLabels, ValidPass
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.sweep import Study, Task


@dataclass(frozen=True)
class PartTables:
    """What is measured, and what is known of the N images before the network sees them.

    Args:
        purity: Whether peaks are compared with part masks.
        interpretability: Whether valid regions are.
        parts: Columns of the K parts among the probe set's concepts.
        row: By image, its row in the tables.
        category: ``(N,)`` int64, category of each image.
        num_categories: C.
    """

    purity: bool
    interpretability: bool
    parts: tuple[int, ...]
    row: Mapping[int, int]
    category: Tensor
    num_categories: int


class Gathered(NamedTuple):
    """What was gathered of a layer's F filters on the N images that could be read.

    Attributes:
        peaks: Of all images.
        mean: ``(N, F)`` float32, mean activation above 0; ``-inf`` where there is no peak.
        covered: For purity, cells on parts ``(N, K, h * w)`` and images that show them ``(N, K)``, both bool.
        counts: For interpretability, associations ``(F, C, K)`` with images ``(C, K)``, int64, and
        chance: the same with the parts of the images that they are re-paired with.
    """

    peaks: Peaks
    mean: Tensor
    covered: tuple[Tensor, Tensor] | None
    counts: tuple[Tensor, Tensor] | None
    chance: tuple[Tensor, Tensor] | None


class PartStudy(Study):
    """One measurement of filters against landmarks and parts.

    Each image has its own row in what is gathered of peaks and parts, and rows are joined over processes by their
    maximum: neither the order of images nor the number of processes changes anything.

    Args:
        task: What to measure; its grids lie on the part masks.
        tables: What is known of the images.
    """

    def __init__(self, task: Task, tables: PartTables) -> None:
        super().__init__(task)
        self.tables = tables
        self._category = tables.category.to(task.device)
        self._partners: dict[int, int] = {}
        self._valid: dict[str, ValidPass] = {}

    def start(self, num_images: int) -> None:
        """Make room."""
        for info in self.task.infos.values():
            self._make_room(info, num_images)

    def _make_room(self, info: LayerInfo, num_images: int) -> None:
        task, each, name = self.task, (num_images, info.units), info.name
        self.sums.add(f"{name}: value", torch.full(each, -math.inf, device=task.device), by="max")
        self.sums.add(f"{name}: cell", torch.full(each, -1, dtype=torch.int32, device=task.device), by="max")
        self.sums.add(f"{name}: mean", torch.full(each, -math.inf, device=task.device), by="max")
        if self.tables.purity:
            cells = num_images, len(self.tables.parts), info.height * info.width
            # 1 on the part, 0 beside it, -1 where the image does not show it or was not seen.
            self.sums.add(f"{name}: covered", torch.full(cells, -1, dtype=torch.int8, device=task.device), by="max")
        if self.tables.interpretability:
            self._valid[name] = ValidPass(
                self.sums,
                info,
                task.grids[name],
                num_images=num_images,
                num_categories=self.tables.num_categories,
                num_parts=len(self.tables.parts),
                byte_budget=task.byte_budget,
                device=task.device,
                ranks=task.ranks,
            )

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Peaks, and what the thresholds need."""
        rows = self._rows(batch.indices)
        for name in self.task.infos:
            peaks, mean = find_peaks(maps[name]), maps[name].float().clamp(min=0).mean((2, 3))
            self.sums[f"{name}: value"][rows] = peaks.value
            self.sums[f"{name}: cell"][rows] = peaks.cell.int()
            self.sums[f"{name}: mean"][rows] = mean.masked_fill(peaks.value == -math.inf, -math.inf)
            if name in self._valid:
                self._valid[name].update(maps[name], rows)

    def settle(self, kept: Sequence[int]) -> None:
        """Thresholds, and the re-pairing of images of one category."""
        super().settle(kept)
        by_category: dict[int, list[int]] = {}
        for index in kept:
            by_category.setdefault(int(self.tables.category[self.tables.row[index]]), []).append(index)
        self._partners = {image: other for own in by_category.values() for image, other in cyclic_partners(own).items()}
        for valid in self._valid.values():
            valid.settle(len(kept))

    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Cells on parts, and associations from the cells that were kept."""
        if not self.tables.parts:
            return []
        for number, indices in enumerate(batches):
            labels = self._labels(indices)
            if self.tables.purity:
                self._cover(labels.parts, self._rows(indices))
            for valid in self._valid.values():
                if not valid.overflowed:
                    valid.tally(number, labels)
        return [name for name, valid in self._valid.items() if valid.overflowed]

    def _cover(self, parts: Tensor, rows: Tensor) -> None:
        """Note which cells lie on the parts ``(n, K, H, W)`` bool of the images in rows ``(n,)``."""
        hidden = ~parts.flatten(2).any(2)
        for name, grid in self.task.grids.items():
            covered = covered_cells(parts, grid).to(torch.int8)
            self.sums[f"{name}: covered"][rows] = covered.masked_fill(hidden[..., None], -1)

    def update_again(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Associations, now that the thresholds are known."""
        labels = self._labels(batch.indices)
        for name, valid in self._valid.items():
            if valid.overflowed:
                valid.tally_maps(maps[name], labels)

    def found(self) -> dict[str, Gathered]:
        """What was gathered, by layer."""
        rows = torch.tensor([self.tables.row[index] for index in self.kept])
        return {name: self._gathered(name, rows) for name in self.task.infos}

    def _gathered(self, name: str, rows: Tensor) -> Gathered:
        totals = self.totals
        value, cell, mean = (totals[f"{name}: {part}"][rows] for part in ("value", "cell", "mean"))
        covered = counts = chance = None
        if self.tables.purity:
            states = totals[f"{name}: covered"][rows]
            covered = states == 1, (states >= 0).all(2)
        if self.tables.interpretability:
            counts, chance = (
                (totals[f"{name}: {kind}associated"], totals[f"{name}: {kind}images"]) for kind in ("", "chance ")
            )
        return Gathered(Peaks(value, cell.long()), mean, covered, counts, chance)

    def _rows(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([self.tables.row[index] for index in indices], device=self.task.device)

    def _labels(self, indices: Sequence[int]) -> PartLabels:
        parts = self._masks(indices)
        others = torch.zeros_like(parts)
        paired = [row for row, index in enumerate(indices) if index in self._partners]
        if paired and self._valid:
            others[paired] = self._masks([self._partners[indices[row]] for row in paired])
        return PartLabels(parts, others, self._category[self._rows(indices)])

    def _masks(self, indices: Sequence[int]) -> Tensor:
        bank = self.task.bank
        bank.ensure(indices)
        regions = bank.batch(indices)
        regions = type(regions)(*(t.to(self.task.device) for t in regions))
        return region_masks(regions, self.tables.parts, self.task.probe.mask_size)
