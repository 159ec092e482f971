"""Network Dissection of a network on a probe set: the same engine inside and outside of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.loading import BadImage
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError
from lightning_interp.functional.upsampling import Axis, Border, Grid
from lightning_interp.methods.dissection.notices import Notices
from lightning_interp.methods.dissection.options import DissectionOptions, make_options
from lightning_interp.methods.dissection.result import DissectionResult
from lightning_interp.methods.dissection.study import DissectionStudy
from lightning_interp.probing.engine import SweepEngine, check_least
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.receptive import receptive_axis
from lightning_interp.probing.runner import Forward
from lightning_interp.probing.sweep import Progress


class Dissector(SweepEngine[DissectionResult]):
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
        super().__init__(
            probe,
            layers,
            batch_size=batch_size,
            num_workers=num_workers,
            max_samples=max_samples,
            byte_budget=byte_budget,
            on_bad_image=on_bad_image,
            loader_timeout=loader_timeout,
        )
        check_least(top_k=(top_k, 1))
        _check_concepts(probe)
        self.options, self.top_k = options, top_k
        self.mask_size = options.mask_size or probe.mask_size
        self.bank = LabelBank(LabelEncoder(probe, self.mask_size), options.images == "all")
        self._notices = Notices()
        self.grids: dict[LayerInfo, Grid] = {}

    def place(self, module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int]) -> None:
        """Find where the layer's values lie on the mask."""
        size, image = (info.height, info.width), shape[1:]
        if self.options.upsample != "receptive_field":
            border: Border = "zero" if self.options.upsample == "zero_pad" else "hold"
            axes = [Axis.cells(n, pixels, border) for n, pixels in zip(size, self.mask_size, strict=True)]
        else:
            axes = []
            for axis in (0, 1):
                first, step = receptive_axis(module, layer, info.name, (image[0], image[1]), shape[0], axis)
                axes.append(_anchored(size[axis], image[axis], self.mask_size[axis], first, step))
        self.grids[info] = Grid(*axes)

    def study(self, module: nn.Module, ranks: Ranks, forward: Forward | None) -> DissectionStudy:
        """One dissection, to take part in a sweep."""
        return DissectionStudy(self, module, ranks, forward)

    def result(
        self,
        study: DissectionStudy,
        skipped: Sequence[tuple[int, str]],
        seconds: float,
        ranks: Ranks,
        meta: Mapping[str, Any],
    ) -> DissectionResult:
        """What a finished study has found; rank zero says what a user should hear of it."""
        settings = self.settings() | {"num_skipped": len(skipped)}
        result = DissectionResult(study.layers, len(study.kept), settings, seconds, meta)
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


def _check_concepts(probe: ProbeSet) -> None:
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
            see :class:`~lightning_interp.methods.dissection.options.DissectionOptions`. The rest is as in
            :class:`Dissector`.
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
