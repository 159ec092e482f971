"""One dissection under way: its part in a sweep over the probe set."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_interp.data.loading import ProbeBatch
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.methods.dissection.layer_pass import LabelledBatch, LayerPass
from lightning_interp.methods.dissection.result import LayerDissection, Tallies, TopImages
from lightning_interp.probing.agreement import ConceptAgreement, ConceptArea
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, statistics_device
from lightning_interp.probing.sweep import Study
from lightning_interp.probing.values import computed

if TYPE_CHECKING:
    from lightning_interp.methods.dissection.engine import Dissector


class DissectionStudy(Study):
    """One dissection of a :class:`~lightning_interp.methods.dissection.engine.Dissector`.

    Args:
        dissector: Says how to dissect.
        module: The network, unwrapped.
        ranks: The processes that share the images.
        forward: How to call the network on prepared images.

    Attributes:
        kept: Images that could be read.
        layers: Once frozen, what was found by layer.
    """

    def __init__(self, dissector: "Dissector", module: nn.Module, ranks: Ranks, forward: Forward | None) -> None:
        self.own, self.module, self.ranks, self.forward = dissector, module, ranks, forward
        self.bank = dissector.bank
        self.kept: list[int] = []
        self.layers: dict[str, LayerDissection] = {}
        self._seen: list[int] = []
        self._partners: dict[int, int] = {}
        self._passes: dict[str, LayerPass] = {}

    def begin(self, num_images: int) -> Sequence[str]:
        """Make room."""
        infos = self.own.known(self.module, self.forward)
        sync = {"sync_on_compute": self.ranks.world > 1, "process_group": self.ranks.group}
        for name, info in infos.items():
            self._passes[name] = LayerPass(
                info,
                self.own.grids[info],
                self.own.options,
                num_images=num_images,
                num_concepts=len(self.own.probe.concepts),
                num_categories=len(self.own.probe.categories),
                top_k=self.own.top_k,
                byte_budget=self.own.byte_budget // len(infos),
                device=statistics_device(self.module),
                sync=sync,
            )
        return list(infos)

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Thresholds' candidates, surviving cells, top images."""
        self._seen += batch.indices
        for name, layer in self._passes.items():
            layer.update(maps[name], torch.tensor(batch.indices, device=maps[name].device))

    def settle(self, kept: Sequence[int]) -> None:
        """Exact thresholds over all processes, and the re-pairing of images."""
        self.kept = list(kept)
        self._partners = cyclic_partners(kept)
        for layer in self._passes.values():
            layer.settle(len(kept), self.ranks.sum, self.ranks.min)

    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Count from the surviving cells."""
        self.bank.ensure(self._partners[i] for batch in batches for i in batch if self._partners)
        held = [layer for layer in self._passes.values() if not layer.overflowed]
        for number, indices in enumerate(batches):
            labels = self._labels(indices) if held else None
            for layer in held:
                assert labels is not None
                layer.tally(number, labels)
        return [name for name, layer in self._passes.items() if layer.overflowed]

    def update_again(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Count, now that the thresholds are known."""
        labels = self._labels(batch.indices)
        for name, layer in self._passes.items():
            if layer.overflowed:
                layer.tally_maps(maps[name], labels)

    def _labels(self, indices: list[int]) -> LabelledBatch:
        """Labels of a batch and of its images' partners, on the network's device."""
        device = statistics_device(self.module)

        def of(images: list[int]) -> tuple[Any, Tensor]:
            regions = self.bank.batch(images)
            return type(regions)(*(t.to(device) for t in regions)), self.bank.members(images).to(device)

        return LabelledBatch(of(indices), of([self._partners[i] for i in indices]) if self._partners else None)

    def freeze(self) -> None:
        """Sum over the processes."""
        sync = {"sync_on_compute": self.ranks.world > 1, "process_group": self.ranks.group}
        concepts, categories = len(self.own.probe.concepts), len(self.own.probe.categories)
        area = ConceptArea(concepts, categories, **sync)
        area.update(self.bank.concept_area(self._seen), self.bank.pixels(self._seen))
        totals = computed(area, (concepts,), (categories,))
        self.layers = {name: self._freeze(layer, totals) for name, layer in self._passes.items()}

    def _freeze(self, layer: LayerPass, totals: tuple[Tensor, ...]) -> LayerDissection:
        units, height, width = layer.info.units, layer.info.height, layer.info.width
        best = (units, self.own.top_k)
        top = computed(layer.top, best, best, (*best, 2), (*best, height, width))
        shapes = tuple((units, len(total)) for total in totals)

        def tallies(metric: ConceptAgreement) -> Tallies:
            return Tallies(*(t.numpy() for t in (*computed(metric, *shapes), *totals)))

        states = zip(layer.nonfinite.tolist(), layer.constant.tolist(), strict=True)
        return LayerDissection(
            layer=layer.info.name,
            concepts=tuple(self.own.probe.concepts),
            categories=self.own.probe.categories,
            thresholds=layer.thresholds.cpu().numpy(),
            status=tuple("non-finite" if n else "constant" if constant else "ok" for n, constant in states),
            nonfinite=layer.nonfinite.numpy(),
            tallies=tallies(layer.agreement),
            chance=tallies(layer.chance),
            top=TopImages(*(t.numpy() for t in top)),
            iou_threshold=self.own.options.iou_threshold,
            anchors=(layer.grid.rows.anchors, layer.grid.columns.anchors),
            border=layer.grid.rows.border,
        )
