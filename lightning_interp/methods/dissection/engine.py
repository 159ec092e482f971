"""Network Dissection of a network on a probe set: the same engine inside and outside of training."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import nn

from lightning_interp._options import passes_on, renamed
from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.loading import check_least
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError
from lightning_interp.functional.upsampling import Axis, Border, Grid
from lightning_interp.methods.dissection.options import DissectionOptions, make_options
from lightning_interp.methods.dissection.result import DissectionResult
from lightning_interp.methods.dissection.study import DissectionStudy
from lightning_interp.probing.engine import SweepEngine
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.receptive import receptive_axis
from lightning_interp.probing.sweep import Progress, Task


class Dissector(SweepEngine[DissectionResult]):
    """Dissects a network again and again on one probe set; encoded labels and layer shapes are kept in between.

    Args:
        probe: The probe set.
        layers: Module paths, globs (``"layer*"``, ``"layer4.*.conv2"``) or ``"auto"``.
        options: Definitions as one object; None to make them of the next seven.
        preset: ``"cvpr2017"`` or ``"pnas2020"``; the next six replace its values
            (:class:`~lightning_interp.methods.dissection.options.DissectionOptions`).
        quantile: Share of a unit's values above its threshold.
        quantile_on: ``"low"`` or ``"upsampled"`` values.
        upsample: ``"cell"``, ``"receptive_field"`` or ``"zero_pad"``.
        area_images: Images that enter a unit's area: those with a concept of the same ``"category"``, or ``"all"``.
        iou_threshold: A unit detects a concept if its IoU is above this.
        mask_size: ``(h, w)`` to count at; None for the probe set's.
        top_k: Images to keep a unit.
        images: Old name of ``area_images``.
        **reading: How the probe set is read: :class:`~lightning_interp.data.loading.Reading`.

    Raises:
        DatasetError: If the probe set is empty, without concepts, or malformed.
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str] = ("auto",),
        options: DissectionOptions | None = None,
        *,
        preset: Literal["cvpr2017", "pnas2020"] = "cvpr2017",
        quantile: float | None = None,
        quantile_on: Literal["low", "upsampled"] | None = None,
        upsample: Literal["cell", "receptive_field", "zero_pad"] | None = None,
        area_images: Literal["category", "all"] | None = None,
        iou_threshold: float | None = None,
        mask_size: tuple[int, int] | None = None,
        top_k: int = 9,
        images: Literal["category", "all"] | None = None,
        **reading: Any,
    ) -> None:
        super().__init__(probe, layers, **reading)
        check_least(top_k=(top_k, 1))
        _check_concepts(probe)
        self.top_k = top_k
        self.options = options or make_options(
            preset,
            quantile=quantile,
            quantile_on=quantile_on,
            upsample=upsample,
            images=renamed("dissection", "images", "area_images", images, area_images),
            iou_threshold=iou_threshold,
            mask_size=mask_size,
        )
        self.mask_size = self.options.mask_size or probe.mask_size
        self.bank = LabelBank(LabelEncoder(probe, self.mask_size), self.options.images == "all")

    def place(self, module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int]) -> Grid:
        """Where the layer's values lie on the mask."""
        size, image = (info.height, info.width), shape[1:]
        if self.options.upsample != "receptive_field":
            border: Border = "zero" if self.options.upsample == "zero_pad" else "hold"
            return Grid(*(Axis.cells(n, pixels, border) for n, pixels in zip(size, self.mask_size, strict=True)))
        axes = []
        for axis in (0, 1):
            first, step = receptive_axis(module, layer, info.name, (image[0], image[1]), shape[0], axis)
            axes.append(_anchored(size[axis], image[axis], self.mask_size[axis], first, step))
        return Grid(*axes)

    def study(self, task: Task) -> DissectionStudy:
        """One dissection, to take part in a sweep."""
        return DissectionStudy(task, self.options, self.top_k)

    def result(self, study: DissectionStudy, **about: Any) -> DissectionResult:
        """What a finished study has found."""
        return DissectionResult(study.found(), **about)

    def notices(self, result: DissectionResult) -> None:
        """Units that cannot be scored."""
        for name, layer in result.layers.items():
            self.say_nonfinite(name, np.flatnonzero(layer.nonfinite).tolist(), layer.num_units)

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, JSON-able."""
        own = {"mask_size": list(self.mask_size), "top_k": self.top_k}
        return self.options.as_dict() | super().settings() | own


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


@passes_on(Dissector)
def dissect(
    model: nn.Module,
    probe: ProbeSet,
    layers: Sequence[str] = ("auto",),
    *,
    progress: Progress | None = None,
    **options: Any,
) -> DissectionResult:
    """Dissect a network outside of training: the result that the callback publishes.

    Args:
        model: Any module; it is left exactly as it was.
        probe: The probe set.
        layers: Module paths, globs or ``"auto"``.
        progress: Called with images done and images in all.
        **options: As in :class:`Dissector`.

    Raises:
        LayerError: If a layer is unknown or gives no ``(B, U, H, W)`` map exactly once.
        DatasetError: If the probe set is empty or malformed.
        ValueError: If an option is out of range.
    """
    return Dissector(probe, layers, **options).once(model, progress=progress)
