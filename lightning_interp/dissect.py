"""Network Dissection of a network on a probe set: the same engine inside and outside of training."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_interp.data.bank import LabelBank, LabelEncoder
from lightning_interp.data.loading import BAD_IMAGE_ERRORS, BadImage, checked_image
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.functional.upsampling import Axis, Border, Grid
from lightning_interp.notices import Notices
from lightning_interp.options import DissectionOptions, make_options
from lightning_interp.probing.describe import describe_layers
from lightning_interp.probing.layers import LayerInfo, resolve_layers
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.receptive import receptive_axis
from lightning_interp.probing.runner import Forward, prepare
from lightning_interp.probing.session import probing
from lightning_interp.results import DissectionResult
from lightning_interp.sweep import Progress, Sweep

# GiB of one layer's maps for one batch.
LARGEST_BATCH = 8


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
        infos: Shapes of the layers, once :meth:`describe` has run.
        grids: Where the values of maps of each shape lie on the mask.

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
        self.infos: dict[str, LayerInfo] = {}
        self.grids: dict[LayerInfo, Grid] = {}

    def describe(self, module: nn.Module, forward: Forward | None = None) -> dict[str, LayerInfo]:
        """Resolve the layers and learn the shapes of their maps from one image; cheap, no collective.

        Args:
            module: The network, unwrapped.
            forward: How to call it on prepared images.

        Raises:
            LayerError: If a layer is unknown, does not run exactly once, or gives no, or too large, maps (B, U, H, W).
            DatasetError: If the first image cannot be read.
        """
        with probing(module):
            image = self._example()[None]
            example = prepare(image, module, self.probe.normalize)
            infos = describe_layers(module, self.layers, example, forward)
            for info in infos.values():
                self._check_size(info)
            layers = resolve_layers(module, list(infos))
            shape = tuple(image.shape[1:])
            self.grids = {info: self._grid(module, layers[name], info, shape) for name, info in infos.items()}
        self.infos = infos
        return infos

    def _check_size(self, info: LayerInfo) -> None:
        """Refuse maps of which one batch alone would fill the memory, before they are made."""
        size = self.batch_size * info.units * info.height * info.width * 4 / 2**30
        if size > LARGEST_BATCH:
            raise LayerError(
                f"layer '{info.name}' gives {size:.1f} GiB of activations a batch of {self.batch_size} images, more "
                f"than {LARGEST_BATCH} GiB; lower batch_size or choose a later layer"
            )

    def _example(self) -> Tensor:
        for index in self.indices:
            try:
                return checked_image(self.probe, index)
            except BAD_IMAGE_ERRORS:
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
            axes.append(_anchored(shape[axis], image[1 + axis], self.mask_size[axis], first, step))
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
        sweep = Sweep(self, module, ranks, forward, progress, should_stop)
        with probing(module):
            # Between two steps of DDP each process has batch statistics of its own; rank zero's are saved.
            ranks.agree(None)
            ranks.share(module.buffers())
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


def _anchored(length: int, pixels: int, size: int, first: int, step: float) -> Axis:
    """Receptive-field centres on the mask: in whole numbers where NetDissect has them (``upsample.upsampleL``)."""
    reduction = pixels // size
    if reduction and pixels // reduction == size and step % reduction == 0:
        return Axis(length, size, first // reduction, step // reduction)
    return Axis(length, size, float(np.floor(first * size / pixels)), step * size / pixels)


def _spread(length: int, most: int | None) -> list[int]:
    """At most ``most`` indices, evenly spaced: the start of a set sorted by name would be no fair sample."""
    if most is None or most >= length:
        return list(range(length))
    return [i * length // most for i in range(most)]


def _check_probe(probe: ProbeSet) -> None:
    if not isinstance(probe, ProbeSet):
        raise DatasetError(f"probe must be a ProbeSet, got {type(probe).__name__}; subclass ProbeSet for your own data")
    if not len(probe):
        raise DatasetError("the probe set is empty")
    if not probe.concepts:
        raise DatasetError("the probe set has no concepts")
    numbers = [concept.number for concept in probe.concepts]
    if min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise DatasetError("concept numbers must be different and at least 1 (0 means unlabelled)")


def dissect(  # noqa: D417 - the options are described where they are at home
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
        preset: ``"cvpr2017"`` or ``"pnas2020"``; the next six, from ``quantile`` to ``mask_size``, replace its values:
            see :class:`~lightning_interp.options.DissectionOptions`. The rest is as in :class:`Dissector`.
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
