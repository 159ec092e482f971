"""One dissection under way: the steps between which the processes agree."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_interp.data.loading import ProbeBatch, probe_batches
from lightning_interp.data.sampler import ShardSampler
from lightning_interp.errors import DatasetError
from lightning_interp.functional.dissection import cyclic_partners
from lightning_interp.metrics.agreement import ConceptAgreement, ConceptArea
from lightning_interp.metrics.values import computed
from lightning_interp.probing.layer_pass import LabelledBatch, LayerPass
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.runner import Forward, Stopped, module_device, run, statistics_device
from lightning_interp.results import LayerDissection, Tallies, TopImages

if TYPE_CHECKING:
    from lightning_interp.dissect import Dissector

Progress = Callable[[int, int], None]


class Sweep:
    """One dissection under way: its steps, between which the processes agree."""

    def __init__(
        self,
        dissector: "Dissector",
        module: nn.Module,
        ranks: Ranks,
        forward: Forward | None,
        progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.own, self.module, self.ranks = dissector, module, ranks
        self.forward, self.progress, self.should_stop = forward, progress, should_stop
        self.indices = dissector.indices[: dissector.limit]
        self.shard = ShardSampler(self.indices, ranks.rank, ranks.world)
        self.skipped: list[tuple[int, str]] = []
        self.batches: list[list[int]] = []
        self.kept: list[int] = []
        self.partners: dict[int, int] = {}
        self.passes: dict[str, LayerPass] = {}
        self.stopped = False
        self._done = 0

    def collect(self) -> None:
        """First sweep: thresholds' candidates, surviving cells, top images, labels. No collective."""
        infos = self.own.infos or self.own.describe(self.module, self.forward)
        sync = {"sync_on_compute": self.ranks.world > 1, "process_group": self.ranks.group}
        for name, info in infos.items():
            self.passes[name] = LayerPass(
                info,
                self.own.grids[info],
                self.own.options,
                num_images=len(self.indices),
                num_concepts=len(self.own.probe.concepts),
                num_categories=len(self.own.probe.categories),
                top_k=self.own.top_k,
                byte_budget=self.own.byte_budget // len(infos),
                device=statistics_device(self.module),
                sync=sync,
            )
        self._run(self)

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Take in a batch of the first sweep."""
        for index, regions in zip(batch.indices, batch.regions, strict=True):
            if regions is not None:
                self.own.bank.put(index, regions)
        self.batches.append(batch.indices)
        for name, layer in self.passes.items():
            layer.update(maps[name], torch.tensor(batch.indices, device=maps[name].device))

    def _run(self, into: Any, passes: Sequence[str] | None = None) -> None:
        layers = resolve_layers(self.module, list(passes or self.passes))
        first = into is self
        batches = probe_batches(
            self.own.bank.encoder,
            list(self.shard) if first else [index for batch in self.batches for index in batch],
            batch_size=self.own.batch_size,
            known=self.own.bank,
            num_workers=self.own.num_workers,
            # What the first sweep has read is in the totals: the second cannot leave it out.
            on_bad_image=self.own.on_bad_image if first else "raise",
            pin_memory=module_device(self.module).type == "cuda",
            timeout=self.own.loader_timeout,
        )
        try:
            run(
                self.module,
                _noting(batches, self.skipped),
                [into],
                layers=layers,
                normalize=self.own.probe.normalize,
                forward=self.forward,
                progress=self._report,
                should_stop=self.should_stop,
            )
        except Stopped:
            self.stopped = True

    def _report(self, count: int) -> None:
        self._done += count
        if self.progress is not None:
            self.progress(self._done, len(self.shard))

    def settle(self, skipped: Mapping[int, str]) -> None:
        """Exact thresholds over all processes, and the re-pairing of images; collective."""
        self.kept = [index for index in self.indices if index not in skipped]
        if not self.kept:
            raise DatasetError(f"no image of the probe set can be read; first: {next(iter(skipped.values()))}")
        self.partners = cyclic_partners(self.kept)
        for layer in self.passes.values():
            layer.settle(len(self.kept), self.ranks.sum, self.ranks.min)

    def tally(self) -> None:
        """Count from the surviving cells, or from a second forward pass. No collective."""
        self.own.bank.ensure(self.partners[i] for batch in self.batches for i in batch if self.partners)
        held = [layer for layer in self.passes.values() if not layer.overflowed]
        for number, indices in enumerate(self.batches):
            labels = self.labels(indices) if held else None
            for layer in held:
                assert labels is not None
                layer.tally(number, labels)
        again = [name for name, layer in self.passes.items() if layer.overflowed]
        if again:
            self._done = 0
            self._run(_Again(self, again), again)

    def labels(self, indices: list[int]) -> LabelledBatch:
        """Labels of a batch and of its images' partners, on the network's device."""
        device = statistics_device(self.module)

        def of(images: list[int]) -> tuple[Any, Tensor]:
            regions = self.own.bank.batch(images)
            return type(regions)(*(t.to(device) for t in regions)), self.own.bank.members(images).to(device)

        return LabelledBatch(of(indices), of([self.partners[i] for i in indices]) if self.partners else None)

    def results(self) -> dict[str, LayerDissection]:
        """Sum over the processes and freeze; collective."""
        sync = {"sync_on_compute": self.ranks.world > 1, "process_group": self.ranks.group}
        concepts, categories = len(self.own.probe.concepts), len(self.own.probe.categories)
        area = ConceptArea(concepts, categories, **sync)
        mine = [index for batch in self.batches for index in batch]
        area.update(self.own.bank.concept_area(mine), self.own.bank.pixels(mine))
        totals = computed(area, (concepts,), (categories,))
        return {name: self._freeze(layer, totals) for name, layer in self.passes.items()}

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


class _Again:
    """The second sweep: thresholds are known, so maps are counted as they come."""

    def __init__(self, sweep: Sweep, names: Sequence[str]) -> None:
        self.sweep, self.names = sweep, names

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        labels = self.sweep.labels(batch.indices)
        for name in self.names:
            self.sweep.passes[name].tally_maps(maps[name], labels)


def _noting(batches: Any, skipped: list[tuple[int, str]]) -> Any:
    for batch in batches:
        skipped.extend(batch.skipped)
        yield batch
