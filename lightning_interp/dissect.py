"""Network Dissection of a network on a probe set: the same engine inside and outside of training."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_interp.data.bank import LabelBank, LabelEncoder
from lightning_interp.data.loading import BadImage, ProbeBatch, checked_image, probe_batches
from lightning_interp.data.probe import ProbeSet
from lightning_interp.data.sampler import ShardSampler
from lightning_interp.errors import DatasetError
from lightning_interp.functional.dissection import cyclic_partners
from lightning_interp.functional.upsampling import Axis, Border, Grid
from lightning_interp.metrics.agreement import ConceptAgreement, ConceptArea
from lightning_interp.metrics.values import computed
from lightning_interp.notices import Notices
from lightning_interp.options import DissectionOptions, make_options
from lightning_interp.probing.describe import describe_layers
from lightning_interp.probing.layer_pass import LabelledBatch, LayerPass
from lightning_interp.probing.layers import LayerInfo, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.receptive import receptive_axis
from lightning_interp.probing.runner import Forward, Stopped, module_device, prepare, run
from lightning_interp.probing.session import probing
from lightning_interp.results import DissectionResult, LayerDissection, Tallies, TopImages

Progress = Callable[[int, int], None]


class Dissector:
    """Dissects a network again and again on one probe set; encoded labels and layer shapes are kept in between.

    Args:
        probe: The probe set.
        layers: Module paths, globs or ``"auto"``.
        options: Definitions of the dissection.
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes.
        max_samples: Use at most so many images, evenly spaced over the set; None for all.
        top_k: Images to keep a unit.
        byte_budget: Bytes that may be spent on keeping surviving activations, over all layers; past it a second
            forward pass is made, with the same result.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read and report how many.
        loader_timeout: Seconds to wait for a loader process before giving up.

    Attributes:
        limit: Probe only the first so many of these images (a trial run); None for all.

    Raises:
        DatasetError: If the probe set is empty, without concepts, or malformed.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str],
        options: DissectionOptions,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        max_samples: int | None = None,
        top_k: int = 9,
        byte_budget: int = 2**30,
        on_bad_image: BadImage = "raise",
        loader_timeout: float = 300.0,
    ) -> None:
        _check_probe(probe)
        least = {"batch_size": (batch_size, 1), "num_workers": (num_workers, 0), "top_k": (top_k, 1)}
        least |= {
            "max_samples": (1 if max_samples is None else max_samples, 1),
            "byte_budget": (byte_budget, 0),
        }
        for name, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {value}")
        if on_bad_image not in ("raise", "skip"):
            raise ValueError(f"on_bad_image must be 'raise' or 'skip', got {on_bad_image!r}")
        if loader_timeout <= 0:
            raise ValueError(f"loader_timeout must be positive, got {loader_timeout}")
        self.probe, self.layers, self.options = probe, layers, options
        self.batch_size, self.num_workers, self.loader_timeout = batch_size, num_workers, loader_timeout
        self.top_k, self.byte_budget, self.on_bad_image = top_k, byte_budget, on_bad_image
        self.mask_size = options.mask_size or probe.mask_size
        self.indices = _spread(len(probe), max_samples)
        self.bank = LabelBank(LabelEncoder(probe, self.mask_size), options.images == "all")
        self.limit: int | None = None
        self._notices = Notices()
        self._infos: dict[str, LayerInfo] = {}
        self._grids: dict[LayerInfo, Grid] = {}

    def describe(self, module: nn.Module, forward: Forward | None = None) -> dict[str, LayerInfo]:
        """Resolve the layers and learn the shapes of their maps from one image; cheap, no collective.

        Args:
            module: The network, unwrapped.
            forward: How to call it on prepared images.

        Raises:
            LayerError: If a layer is unknown, does not run exactly once, or gives no ``(B, U, H, W)`` map.
            DatasetError: If the first image cannot be read.
        """
        image = self._example()[None]
        with probing(module):
            example = prepare(image, module, self.probe.normalize)
            infos = describe_layers(module, self.layers, example, forward)
            layers = resolve_layers(module, list(infos))
            for name, info in infos.items():
                if info not in self._grids:
                    self._grids[info] = self._grid(module, layers[name], info, tuple(image.shape[1:]))
        self._infos = infos
        return infos

    def _example(self) -> Tensor:
        for index in self.indices:
            try:
                return checked_image(self.probe, index)
            except (DatasetError, OSError):
                if self.on_bad_image == "raise":
                    raise
        raise DatasetError("no image of the probe set can be read")

    def _grid(self, module: nn.Module, layer: nn.Module, info: LayerInfo, image: tuple[int, ...]) -> Grid:
        shape = (info.height, info.width)
        if self.options.upsample != "receptive_field":
            border: Border = "zero" if self.options.upsample == "zero_pad" else "hold"
            return Grid(*(Axis.cells(n, size, border) for n, size in zip(shape, self.mask_size, strict=True)))
        axes = []
        for axis in (0, 1):
            first, step = receptive_axis(module, layer, info.name, (image[1], image[2]), image[0], axis)
            scale = self.mask_size[axis] / image[1 + axis]
            # NetDissect divides the centre in whole numbers (upsample.upsampleL).
            axes.append(Axis(shape[axis], self.mask_size[axis], float(np.floor(first * scale)), step * scale))
        return Grid(*axes)

    def __call__(
        self,
        module: nn.Module,
        *,
        ranks: Ranks | None = None,
        forward: Forward | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> DissectionResult | None:
        """Dissect once; a collective call.

        Args:
            module: The network, unwrapped.
            ranks: The processes that share the probe set; this one alone by default.
            forward: How to call the network on prepared images.
            progress: Called with images done and images in all, of this process.
            should_stop: Asked before each batch; if any process says yes, all stop.
            meta: Kept in the result.

        Returns:
            The result, equal on every process; None if it was stopped.

        Raises:
            ProbeError: If a process of several failed; a single process raises the error itself.
        """
        ranks = ranks or Ranks()
        start = time.perf_counter()
        sweep = _Sweep(self, module, ranks, forward, progress, should_stop)
        with probing(module):
            error: Exception | None = None
            try:
                sweep.collect()
            except Exception as caught:
                error = caught
            notes = ranks.agree(error, (sweep.skipped, sweep.stopped))
            if any(stopped for _, stopped in notes):
                return None
            skipped = [image for bad, _ in notes for image in bad]
            sweep.settle(dict(skipped))
            try:
                sweep.tally()
            except Exception as caught:
                error = caught
            notes = ranks.agree(error, sweep.stopped)
            if any(notes):
                return None
            layers = sweep.results()
        settings = self.settings() | {"num_skipped": len(skipped)}
        seconds = time.perf_counter() - start
        result = DissectionResult(layers, len(sweep.kept), settings, seconds, dict(meta or {}))
        if ranks.rank == 0:
            self._notices(result, skipped)
        return result

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, JSON-able."""
        return self.options.as_dict() | {
            "mask_size": list(self.mask_size),
            "probe": self.probe.fingerprint(),
            "probe_kind": type(self.probe).__name__,
            "batch_size": self.batch_size,
            "top_k": self.top_k,
        }


class _Sweep:
    """One dissection under way: its steps, between which the processes agree."""

    def __init__(
        self,
        dissector: Dissector,
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
        infos = self.own._infos or self.own.describe(self.module, self.forward)
        sync = {"sync_on_compute": self.ranks.world > 1, "process_group": self.ranks.group}
        for name, info in infos.items():
            self.passes[name] = LayerPass(
                info,
                self.own._grids[info],
                self.own.options,
                num_images=len(self.indices),
                num_concepts=len(self.own.probe.concepts),
                num_categories=len(self.own.probe.categories),
                top_k=self.own.top_k,
                byte_budget=self.own.byte_budget // len(infos),
                device=module_device(self.module),
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
        device = module_device(self.module)

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

    def __init__(self, sweep: _Sweep, names: Sequence[str]) -> None:
        self.sweep, self.names = sweep, names

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        labels = self.sweep.labels(batch.indices)
        for name in self.names:
            self.sweep.passes[name].tally_maps(maps[name], labels)


def _noting(batches: Any, skipped: list[tuple[int, str]]) -> Any:
    for batch in batches:
        skipped.extend(batch.skipped)
        yield batch


def _spread(length: int, most: int | None) -> list[int]:
    """At most ``most`` indices, evenly spaced: the start of a set sorted by name would be no fair sample."""
    if most is None or most >= length:
        return list(range(length))
    return [i * length // most for i in range(most)]


def _check_probe(probe: ProbeSet) -> None:
    if not len(probe):
        raise DatasetError("the probe set is empty")
    if not probe.concepts:
        raise DatasetError("the probe set has no concepts")
    numbers = [concept.number for concept in probe.concepts]
    if min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise DatasetError("concept numbers must be different and at least 1 (0 means unlabelled)")


def dissect(
    model: nn.Module,
    probe: ProbeSet,
    layers: Sequence[str] = ("auto",),
    *,
    preset: str = "cvpr2017",
    quantile: float | None = None,
    quantile_on: str | None = None,
    upsample: str | None = None,
    images: str | None = None,
    iou_threshold: float | None = None,
    mask_size: tuple[int, int] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    max_samples: int | None = None,
    top_k: int = 9,
    byte_budget: int = 2**30,
    on_bad_image: BadImage = "raise",
    loader_timeout: float = 300.0,
    progress: Progress | None = None,
) -> DissectionResult:
    """Dissect a network outside of training: the result that the callback publishes.

    Args:
        model: Any module; it is left exactly as it was.
        probe: The probe set.
        layers: Module paths, globs or ``"auto"``.
        preset: ``"cvpr2017"`` or ``"pnas2020"``; the next six replace its values
            (:class:`~lightning_interp.options.DissectionOptions`).
        quantile: Share of a unit's values above its threshold.
        quantile_on: ``"low"`` or ``"upsampled"`` values.
        upsample: ``"cell"``, ``"receptive_field"`` or ``"zero_pad"``.
        images: ``"category"`` or ``"all"``.
        iou_threshold: A unit detects a concept if its IoU is above this.
        mask_size: ``(h, w)`` to count at.
        batch_size: Images a forward pass; the last batch is padded to it.
        num_workers: Loader processes.
        max_samples: Use at most so many images, evenly spaced.
        top_k: Images to keep a unit.
        byte_budget: Bytes for surviving activations before a second forward pass is made.
        on_bad_image: ``"raise"`` or ``"skip"``.
        loader_timeout: Seconds to wait for a loader process.
        progress: Called with images done and images in all.

    Raises:
        LayerError: If a layer is unknown or gives no ``(B, U, H, W)`` map exactly once.
        DatasetError: If the probe set is empty or malformed.
        ValueError: If an option is out of range.
    """
    options = make_options(
        preset,
        quantile=quantile,
        quantile_on=quantile_on,
        upsample=upsample,
        images=images,
        iou_threshold=iou_threshold,
        mask_size=mask_size,
    )
    dissector = Dissector(
        probe,
        layers,
        options,
        batch_size=batch_size,
        num_workers=num_workers,
        max_samples=max_samples,
        top_k=top_k,
        byte_budget=byte_budget,
        on_bad_image=on_bad_image,
        loader_timeout=loader_timeout,
    )
    result = dissector(model, progress=progress)
    assert result is not None  # only should_stop stops it
    return result
