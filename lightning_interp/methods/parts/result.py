"""What was found of filters and parts: numbers and the names that they go by."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from lightning_interp.functional.location import CategoryRule, LocationScores
from lightning_interp.functional.part_overlap import PartInterpretability, PartPurity
from lightning_interp.results.base import LayeredResult


class TopPeaks(NamedTuple):
    """The images on which each filter peaks highest; T of them a filter.

    Attributes:
        image: ``(F, T)`` int64, index in the probe set; -1 where there is none.
        point: ``(F, T, 2)`` float64, x and y of the peak in pixels of the image, whole numbers being centres of
            pixels; NaN where there is none.
    """

    image: Tensor
    point: Tensor


@dataclass(frozen=True)
class LayerParts:
    """The filters of a layer; F of them. What was not measured is None.

    Args:
        layer: Its name.
        dead: ``(F,)`` bool, filters never above 0.
        category: ``(F,)`` int64, category of the largest mean activation (Zhang, Wu and Zhu, CVPR 2018, section 3);
            -1 for filters that are dead or gave a NaN or an infinity.
        selectivity: ``(F,)`` float64, share of the mean activation that falls on that category; NaN where that is -1.
            None with a single category.
        top: Peaks on the top images.
        location: Instability, its references and correlations with landmarks.
        purity: Peaks on parts.
        interpretability: Valid regions on parts.
        chance: The same with the parts of other images of the same category.
    """

    layer: str
    dead: Tensor
    category: Tensor
    selectivity: Tensor | None
    top: TopPeaks
    location: LocationScores | None = None
    purity: PartPurity | None = None
    interpretability: PartInterpretability | None = None
    chance: PartInterpretability | None = None

    @property
    def nonfinite(self) -> Tensor:
        """``(F,)`` bool, filters that gave a NaN or an infinity on some image; they have no score."""
        return (self.category < 0) & ~self.dead

    def scalars(self, rule: CategoryRule) -> dict[str, float]:
        """The layer's figures by name; NaN where no filter has one."""
        values: dict[str, float] = {}
        if self.location is not None:
            values |= self.location.summary(rule)
        if self.interpretability is not None:
            values["interpretability"] = self.interpretability.mean
            values["interpretability_by_chance"] = math.nan if self.chance is None else self.chance.mean
        if self.purity is not None:
            own = self.purity.summary()
            values |= {
                "purity": own["purity"],
                "purity_by_chance": own["area"],
                "purity_best_constant": own["best_constant"],
                "purity_beats_constant": own["beats_constant"],
            }
        if self.selectivity is not None:
            values["selectivity"] = float(self.selectivity.nanmean())
        return values | {"dead": float(self.dead.sum()), "nonfinite": float(self.nonfinite.sum())}


@dataclass(frozen=True, repr=False)
class PartResult(LayeredResult[LayerParts]):
    """What the filters of some layers have to do with the parts of the things in the images.

    Args:
        layers: By module path, in the order asked for.
        landmarks: Names of the K landmarks.
        parts: Names of the parts with masks.
        rule: With several categories, which one a filter's instability is taken of
            (:meth:`~lightning_interp.functional.location.LocationScores.by_filter`).
        num_images: Images probed.
        settings: The options that produced it, JSON-able.
        seconds: Wall time of the probe.
        meta: When it was made: ``epoch``, ``global_step`` and the like.
    """

    layers: Mapping[str, LayerParts]
    landmarks: tuple[str, ...]
    parts: tuple[str, ...]
    rule: CategoryRule
    num_images: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict)

    FILE: ClassVar[str] = "parts.json"

    def layer_scalars(self, layer: LayerParts) -> dict[str, float]:
        """A layer's figures by name."""
        return layer.scalars(self.rule)

    def watched(self, layer: LayerParts) -> tuple[str, ...]:
        """Location with its references where it was measured, else parts with theirs."""
        if layer.location is not None:
            return (
                "instability?",
                "best_constant?",
                "beats_best_constant?",
                "correlation?",
                "correlation_chance?",
                "dead",
            )
        own = ("interpretability?", "interpretability_by_chance?")
        return (*own, "purity?", "purity_by_chance?", "purity_best_constant?", "dead")

    def about(self) -> str:
        """Layers with their filters, landmarks, parts, and the images."""
        layers = ", ".join(f"{name}: {len(layer.dead)} filters" for name, layer in self.layers.items())
        return f"{layers}; {len(self.landmarks)} landmarks, {len(self.parts)} parts; {self.num_images} images"

    def save(self, folder: Path) -> Path:
        """Write it to a folder (:func:`~lightning_interp.methods.parts.files.save_parts`)."""
        from lightning_interp.methods.parts.files import save_parts

        return save_parts(self, folder)

    @classmethod
    def load(cls, folder: Path) -> "PartResult":
        """Read what :meth:`save` wrote (:func:`~lightning_interp.methods.parts.files.load_parts`)."""
        from lightning_interp.methods.parts.files import load_parts

        return load_parts(folder)
