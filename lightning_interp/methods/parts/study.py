"""One measurement of filters against parts under way: the steps between which the processes agree."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_interp.data.loading import ProbeBatch
from lightning_interp.functional.peaks import Peaks
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.functional.regions import region_masks
from lightning_interp.functional.upsampling import Grid
from lightning_interp.methods.parts.overlap_sums import PartAssociations, PartCoverage
from lightning_interp.methods.parts.peak_locations import PeakLocations
from lightning_interp.methods.parts.valid_pass import PartLabels, ValidPass
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, statistics_device
from lightning_interp.probing.sweep import Study
from lightning_interp.probing.values import computed

if TYPE_CHECKING:
    from lightning_interp.methods.parts.engine import PartMeter


class LayerSums:
    """What is gathered of one layer.

    Attributes:
        found_peaks: Once frozen, the peaks of all images, and
        mean: ``(N, F)`` float32, mean activation above 0; ``-inf`` where not seen.
        covered: Once frozen, cells on parts ``(N, K, h * w)`` and images that show them ``(N, K)``, both bool.
        counts: Once frozen, associations ``(F, C, K)`` with images ``(C, K)``: the own ones, and those by chance.
    """

    found_peaks: Peaks
    mean: Tensor
    covered: tuple[Tensor, Tensor] | None = None
    counts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __init__(self, meter: "PartMeter", info: LayerInfo, grid: Grid, num_images: int, run: "PartStudy") -> None:
        sync = {"sync_on_compute": run.ranks.world > 1, "process_group": run.ranks.group}
        self.info, self.num_images = info, num_images
        self.peaks = PeakLocations(num_images, info.units, **sync).to(run.device)
        self.coverage: PartCoverage | None = None
        self.valid: ValidPass | None = None
        if "purity" in meter.measures:
            self.coverage = PartCoverage(num_images, len(meter.parts), grid, **sync).to(run.device)
        if "interpretability" in meter.measures:
            self.valid = ValidPass(
                info,
                grid,
                num_images=num_images,
                num_categories=meter.num_categories,
                num_parts=len(meter.parts),
                byte_budget=meter.byte_budget // len(meter.infos),
                device=run.device,
                sync=sync,
            )

    def update(self, maps: Tensor, rows: Tensor) -> None:
        """Take in maps ``(n, F, h, w)`` of the images in rows ``(n,)``."""
        self.peaks.update(maps, rows)
        if self.valid is not None:
            self.valid.update(maps, rows)

    def freeze(self) -> None:
        """Sum over the processes; collective."""
        each = (self.num_images, self.info.units)
        value, cell, self.mean = computed(self.peaks, each, each, each)
        self.found_peaks = Peaks(value, cell)
        if self.coverage is not None:
            images, parts, cells = self.coverage.coverage.shape
            covered, shown = computed(self.coverage, (images, parts, cells), (images, parts))
            self.covered = covered, shown
        if self.valid is not None:
            self.counts = _counts(self.valid.associations), _counts(self.valid.chance)


def _counts(metric: PartAssociations) -> tuple[Tensor, Tensor]:
    associated, images = computed(metric, tuple(metric.associated.shape), tuple(metric.images.shape))
    return associated, images


class PartStudy(Study):
    """One measurement of a :class:`~lightning_interp.methods.parts.engine.PartMeter`.

    Args:
        meter: Says what to measure.
        module: The network, unwrapped.
        ranks: The processes that share the images.
        forward: How to call the network on prepared images.

    Attributes:
        layers: By name, what is gathered.
        kept: Images that could be read.
    """

    def __init__(self, meter: "PartMeter", module: nn.Module, ranks: Ranks, forward: Forward | None) -> None:
        self.meter, self.module, self.ranks, self.forward = meter, module, ranks, forward
        self.bank, self.device = meter.bank, statistics_device(module)
        self.layers: dict[str, LayerSums] = {}
        self.kept: list[int] = []
        self._partners: dict[int, int] = {}

    def begin(self, num_images: int) -> Sequence[str]:
        """Make room."""
        infos = self.meter.known(self.module, self.forward)
        for name, info in infos.items():
            self.layers[name] = LayerSums(self.meter, info, self.meter.mask_grids[name], num_images, self)
        return list(infos)

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Peaks, and what the thresholds need."""
        rows = self._rows(batch.indices)
        for name, layer in self.layers.items():
            layer.update(maps[name], rows)

    def settle(self, kept: Sequence[int]) -> None:
        """Thresholds, and the re-pairing of images of one category."""
        self.kept = list(kept)
        by_category: dict[int, list[int]] = {}
        for index in kept:
            by_category.setdefault(int(self.meter.category[self.meter.row[index]]), []).append(index)
        self._partners = {image: other for own in by_category.values() for image, other in cyclic_partners(own).items()}
        for layer in self.layers.values():
            if layer.valid is not None:
                layer.valid.settle(len(kept), self.ranks.sum, self.ranks.min)

    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Cells on parts, and associations from the cells that were kept."""
        if not self.meter.parts:
            return []
        passes = {name: layer.valid for name, layer in self.layers.items() if layer.valid is not None}
        for number, indices in enumerate(batches):
            labels = self._labels(indices)
            for layer in self.layers.values():
                if layer.coverage is not None:
                    layer.coverage.update(labels.parts, self._rows(indices))
            for valid in passes.values():
                if not valid.overflowed:
                    valid.tally(number, labels)
        return [name for name, valid in passes.items() if valid.overflowed]

    def update_again(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Associations, now that the thresholds are known."""
        labels = self._labels(batch.indices)
        for name, layer in self.layers.items():
            if layer.valid is not None and layer.valid.overflowed:
                layer.valid.tally_maps(maps[name], labels)

    def freeze(self) -> None:
        """Sum over the processes."""
        for layer in self.layers.values():
            layer.freeze()

    def _rows(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([self.meter.row[index] for index in indices], device=self.device)

    def _labels(self, indices: Sequence[int]) -> PartLabels:
        parts = self._masks(indices)
        others = torch.zeros_like(parts)
        paired = [row for row, index in enumerate(indices) if index in self._partners]
        if paired and "interpretability" in self.meter.measures:
            others[paired] = self._masks([self._partners[indices[row]] for row in paired])
        return PartLabels(parts, others, self.meter.category.to(self.device)[self._rows(indices)])

    def _masks(self, indices: Sequence[int]) -> Tensor:
        self.bank.ensure(indices)
        regions = self.bank.batch(indices)
        regions = type(regions)(*(t.to(self.device) for t in regions))
        return region_masks(regions, self.meter.part_columns, self.meter.probe.mask_size)
