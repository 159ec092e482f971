"""One dissection under way: its part in a sweep over the probe set."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_interp.data.loading import ProbeBatch
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.methods.dissection.options import DissectionOptions
from lightning_interp.methods.dissection.result import LayerDissection, Tallies, TopImages
from lightning_interp.probing.sweep import Study, Task
from lightning_interp.probing.tallies import LabelledBatch, LayerTallies


class DissectionStudy(Study):
    """One dissection.

    Args:
        task: What to dissect; its grids lie on the masks.
        options: Definitions of the dissection.
        top_k: Images to keep a unit.
    """

    def __init__(self, task: Task, options: DissectionOptions, top_k: int) -> None:
        super().__init__(task)
        self.options, self.top_k = options, top_k
        self._seen: list[int] = []
        self._partners: dict[int, int] = {}
        self._layers: dict[str, LayerTallies] = {}

    def start(self, num_images: int) -> None:
        """Make room."""
        task = self.task
        concepts, categories = len(task.probe.concepts), len(task.probe.categories)
        for name, info in task.infos.items():
            self._layers[name] = LayerTallies(
                self.sums,
                info,
                task.grids[name],
                quantile=self.options.quantile,
                quantile_on=self.options.quantile_on,
                num_images=num_images,
                num_concepts=concepts,
                num_categories=categories,
                top_k=self.top_k,
                byte_budget=task.byte_budget,
                device=task.device,
                ranks=task.ranks,
            )
        self.sums.add("concept area", torch.zeros(concepts, dtype=torch.int64))
        self.sums.add("pixels", torch.zeros(categories, dtype=torch.int64))

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Thresholds' candidates, surviving cells, top images."""
        self._seen += batch.indices
        for name, layer in self._layers.items():
            layer.update(maps[name], torch.tensor(batch.indices, device=maps[name].device))

    def settle(self, kept: Sequence[int]) -> None:
        """Exact thresholds over all processes, and the re-pairing of images."""
        super().settle(kept)
        self._partners = cyclic_partners(kept)
        for layer in self._layers.values():
            layer.settle(len(kept))

    def tally(self, batches: Sequence[list[int]]) -> Sequence[str]:
        """Count from the surviving cells."""
        self.task.bank.ensure(self._partners[i] for batch in batches for i in batch if self._partners)
        held = [layer for layer in self._layers.values() if not layer.overflowed]
        for number, indices in enumerate(batches):
            labels = self._labels(indices) if held else None
            for layer in held:
                assert labels is not None
                layer.tally(number, labels)
        return [name for name, layer in self._layers.items() if layer.overflowed]

    def update_again(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Count, now that the thresholds are known."""
        labels = self._labels(batch.indices)
        for name, layer in self._layers.items():
            if layer.overflowed:
                layer.tally_maps(maps[name], labels)

    def _labels(self, indices: list[int]) -> LabelledBatch:
        """Labels of a batch and of its images' partners, on the network's device."""
        bank, device = self.task.bank, self.task.device

        def of(images: list[int]) -> tuple[Any, Tensor]:
            regions = bank.batch(images)
            return type(regions)(*(t.to(device) for t in regions)), bank.members(images).to(device)

        return LabelledBatch(of(indices), of([self._partners[i] for i in indices]) if self._partners else None)

    def freeze(self) -> None:
        """Sum over the processes."""
        self.sums["concept area"] += self.task.bank.concept_area(self._seen)
        self.sums["pixels"] += self.task.bank.pixels(self._seen)
        for layer in self._layers.values():
            layer.top.hand_in()
        super().freeze()

    def found(self) -> dict[str, LayerDissection]:
        """What was found, by layer."""
        return {name: self._layer(layer) for name, layer in self._layers.items()}

    def _layer(self, layer: LayerTallies) -> LayerDissection:
        name, totals = layer.info.name, self.totals

        def tallies(kind: str) -> Tallies:
            names = (f"{name}: {kind}intersection", f"{name}: {kind}area", "concept area", "pixels")
            return Tallies(*(totals[part].numpy() for part in names))

        states = zip(layer.nonfinite.tolist(), layer.constant.tolist(), strict=True)
        return LayerDissection(
            layer=name,
            concepts=tuple(self.task.probe.concepts),
            categories=self.task.probe.categories,
            thresholds=layer.thresholds.cpu().numpy(),
            status=tuple("non-finite" if n else "constant" if constant else "ok" for n, constant in states),
            nonfinite=layer.nonfinite.numpy(),
            tallies=tallies(""),
            chance=tallies("chance "),
            top=TopImages(*(part.numpy() for part in layer.top.winners(totals))),
            iou_threshold=self.options.iou_threshold,
            anchors=(layer.grid.rows.anchors, layer.grid.columns.anchors),
            border=layer.grid.rows.border,
        )
