"""Frozen results on the CPU: what a dissection found, as integer counts, and everything derived from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_interp.data.probe import Concept
from lightning_interp.methods.dissection.maths.scores import LayerScores, Match, UnitRow, layer_scores
from lightning_interp.results.base import LayeredResult

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNIT_STATES = ("ok", "constant", "non-finite")


@dataclass(frozen=True)
class Tallies:
    """Pixel counts of U units against C concepts of G categories, summed over the probe set.

    Args:
        intersection: ``(U, C)`` int64, pixels where the unit is active and the concept is present (I).
        unit_area: ``(U, G)`` int64, active pixels on the images that count for category g (A).
        concept_area: ``(C,)`` int64, pixels of the concept (G).
        pixels: ``(G,)`` int64, all pixels of the images that count for category g.
    """

    intersection: Ints
    unit_area: Ints
    concept_area: Ints
    pixels: Ints


@dataclass(frozen=True)
class TopImages:
    """The k images that excite each unit most; slots past the number of images hold index -1.

    Args:
        index: ``(U, k)`` int64, positions in the probe set, best first; equal scores by lower index.
        score: ``(U, k)`` float32, the map's maximum.
        peak: ``(U, k, 2)`` int64, row and column of that maximum in the low-resolution map (first of equals).
        maps: ``(U, k, h, w)`` float32, the low-resolution activation maps.
    """

    index: Ints
    score: NDArray[np.float32]
    peak: Ints
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class LayerDissection:
    """Network Dissection of one layer: counts, thresholds and top images, with every score derived from them.

    Args:
        layer: Module path.
        concepts: The C concepts, in the order of the columns of ``tallies``.
        categories: The G categories, in the order of ``tallies.unit_area``.
        thresholds: ``(U,)`` float64, T_k; NaN for a unit that saw NaN or infinity.
        status: U strings, ``"ok"``, ``"constant"`` (one value everywhere) or ``"non-finite"``; only ``"ok"``
            units are scored.
        nonfinite: ``(U,)`` int64, number of NaN and infinite activations.
        tallies: The counts.
        chance: The same counts with each image's maps set against another image's labels.
        top: The images that excite each unit most.
        iou_threshold: A unit detects a concept if its IoU is above this.
        anchors: ``(rows, columns)``: positions of the map's values on the mask grid, in mask pixels.
        border: How the map goes on outside its anchors, ``"hold"`` or ``"zero"``.
    """

    layer: str
    concepts: tuple[Concept, ...]
    categories: tuple[str, ...]
    thresholds: Floats
    status: tuple[str, ...]
    nonfinite: Ints
    tallies: Tallies
    chance: Tallies
    top: TopImages
    iou_threshold: float
    anchors: tuple[tuple[float, ...], tuple[float, ...]]
    border: str

    @property
    def num_units(self) -> int:
        """Number of units U."""
        return len(self.thresholds)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """``(U,)``: whether the unit is scored."""
        return np.array([state == "ok" for state in self.status], dtype=bool)

    @cached_property
    def iou(self) -> Floats:
        """``(U, C)`` float64, I / (A + G - I); NaN for invalid units and concepts without a pixel."""
        return self._iou(self.tallies)

    @cached_property
    def chance_iou(self) -> Floats:
        """``(U, C)`` float64, the IoU against re-paired labels."""
        return self._iou(self.chance)

    def _iou(self, t: Tallies) -> Floats:
        union = t.unit_area[:, self.concept_category] + t.concept_area - t.intersection
        known = self.valid[:, None] & (t.concept_area > 0)[None, :] & (union > 0)
        return np.where(known, t.intersection / np.maximum(union, 1), np.nan)

    @cached_property
    def concept_category(self) -> Ints:
        """``(C,)`` int64, position of each concept's primary category in ``categories``."""
        return np.array([self.categories.index(c.category) for c in self.concepts], dtype=np.int64)

    @cached_property
    def best(self) -> Ints:
        """``(U,)`` int64, column of each unit's best concept, -1 for a unit without one.

        Of equals the one of the first category, then of the first column, as in :attr:`rows`.
        """
        order = np.argsort(self.concept_category, kind="stable")
        best = _best(self.iou[:, order])
        return np.where(best >= 0, order[best], -1)

    @cached_property
    def best_iou(self) -> Floats:
        """``(U,)`` float64, IoU of :attr:`best`; NaN for a unit without one."""
        return _pick(self.iou, self.best)

    @cached_property
    def chance_best_iou(self) -> Floats:
        """``(U,)`` float64, the largest IoU that the unit reached against re-paired labels."""
        return _pick(self.chance_iou, _best(self.chance_iou))

    @property
    def chance_max_iou(self) -> float:
        """Largest IoU of any unit with any concept by chance: the null maximum of the layer; 0 without units."""
        return float(np.nanmax(self.chance_best_iou)) if np.isfinite(self.chance_best_iou).any() else 0.0

    @cached_property
    def beats_chance(self) -> NDArray[np.bool_]:
        """``(U,)``: whether the unit's best IoU is above the layer's null maximum.

        Never where there is none: a single image cannot be paired with another's labels.
        """
        known = bool(self.chance.unit_area.any())
        return known & (np.nan_to_num(self.best_iou, nan=-1.0) > self.chance_max_iou)

    @cached_property
    def is_detector(self) -> NDArray[np.bool_]:
        """``(U,)``: whether the unit's best IoU is above ``iou_threshold``."""
        return np.nan_to_num(self.best_iou, nan=-1.0) > self.iou_threshold

    @cached_property
    def rows(self) -> list[UnitRow]:
        """The per-unit table, one row a unit with the best concept of each category."""
        return self._rows(self.tallies, self.iou)

    @cached_property
    def scores(self) -> LayerScores:
        """Detectors and unique detectors by both rules."""
        return layer_scores(self.rows, self.categories, self.iou_threshold)

    @cached_property
    def chance_scores(self) -> LayerScores:
        """The same by chance."""
        return layer_scores(self._rows(self.chance, self.chance_iou), self.categories, self.iou_threshold)

    def _rows(self, t: Tallies, iou: Floats) -> list[UnitRow]:
        rows: list[dict[str, Match]] = [{} for _ in range(self.num_units)]
        for g, category in enumerate(self.categories):
            columns = np.flatnonzero(self.concept_category == g)
            for unit, c in enumerate(_best(iou[:, columns])):
                if c >= 0:
                    concept = columns[c]
                    rows[unit][category] = Match(
                        label=self.concepts[concept].name,
                        truth=int(t.concept_area[concept]),
                        activation=int(t.unit_area[unit, g]),
                        intersect=int(t.intersection[unit, concept]),
                    )
        return [UnitRow(unit, matches) for unit, matches in enumerate(rows)]

    @cached_property
    def information_quality(self) -> Floats:
        """``(U, C)`` float64: mutual information over joint entropy of "unit active" and "concept present".

        Bau et al. 2020 (PNAS), from the 2x2 table of pixel shares; NaN where the IoU is.
        """
        t = self.tallies
        area, pixels = t.unit_area[:, self.concept_category], t.pixels[self.concept_category]
        joint = np.stack(
            [
                t.intersection,
                area - t.intersection,
                t.concept_area - t.intersection,
                pixels - area - t.concept_area + t.intersection,
            ]
        ) / np.maximum(pixels, 1)
        unit, concept = joint[0] + joint[1], joint[0] + joint[2]
        entropy = _entropy(joint)
        information = _entropy(np.stack([unit, 1 - unit])) + _entropy(np.stack([concept, 1 - concept])) - entropy
        quality = np.where(entropy > 0, information / np.where(entropy > 0, entropy, 1.0), 0.0)
        return np.where(np.isnan(self.iou), np.nan, quality)

    def scalars(self) -> dict[str, float]:
        """The layer's scores by tag (without the layer's name), always the same keys in the same order."""
        scores, chance = self.scores, self.chance_scores
        best_quality = _pick(self.information_quality, self.best)
        values = {
            "detectors": float(scores.detectors),
            "unique_detectors": float(scores.unique_detectors),
            "unique_by_category": float(scores.unique_by_category),
            "interpretable_share": scores.detectors / self.num_units,
            "mean_iou": _mean(self.best_iou),
            "max_iou": float(np.nanmax(self.best_iou))
            if self.valid.any() and np.isfinite(self.best_iou).any()
            else 0.0,
            "information_quality": _mean(best_quality),
            "detectors_by_chance": float(chance.detectors),
            "unique_by_chance": float(chance.unique_detectors),
            "max_iou_by_chance": self.chance_max_iou,
            "beats_chance": float(self.beats_chance.sum()),
            "invalid_units": float((~self.valid).sum()),
        }
        for category in self.categories:
            values[f"{category}/detectors"] = float(scores.category_detectors[category])
            values[f"{category}/unique_detectors"] = float(scores.category_unique[category])
        return values


@dataclass(frozen=True, repr=False)
class DissectionResult(LayeredResult[LayerDissection]):
    """Network Dissection of some layers on one probe set.

    Args:
        layers: By module path, in the order asked for.
        num_images: Images probed.
        settings: The options that produced it, JSON-able (quantile, anchors, mask size, probe fingerprint...).
        seconds: Wall time of the probe.
        meta: When it was made: ``epoch``, ``global_step`` and the like.
    """

    layers: Mapping[str, LayerDissection]
    num_images: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict)

    FILE: ClassVar[str] = "dissection.json"
    HEADLINE: ClassVar[tuple[str, ...]] = (
        *("detectors", "detectors_by_chance", "unique_detectors", "unique_by_chance", "beats_chance"),
        *("mean_iou", "max_iou", "max_iou_by_chance", "invalid_units"),
    )

    def layer_scalars(self, layer: LayerDissection) -> dict[str, float]:
        """A layer's scores by tag."""
        return layer.scalars()

    def about(self) -> str:
        """Layers with their units, and the images."""
        layers = ", ".join(f"{name}: {layer.num_units} units" for name, layer in self.layers.items())
        return f"{layers}; {self.num_images} images"

    def save(self, folder: Path) -> Path:
        """Write it to a folder (:func:`~lightning_interp.methods.dissection.files.save_result`)."""
        from lightning_interp.methods.dissection.files import save_result

        return save_result(self, folder)

    @classmethod
    def load(cls, folder: Path) -> "DissectionResult":
        """Read what :meth:`save` wrote (:func:`~lightning_interp.methods.dissection.files.load_result`)."""
        from lightning_interp.methods.dissection.files import load_result

        return load_result(folder)


def _best(iou: Floats) -> Ints:
    """``(U,)`` column of the largest value of each row, the first of equals; -1 where all are NaN."""
    if iou.shape[1] == 0:
        return np.full(len(iou), -1, dtype=np.int64)
    best = np.where(np.isnan(iou), -1.0, iou)
    return np.where(best.max(axis=1) >= 0, best.argmax(axis=1), -1).astype(np.int64)


def _pick(values: Floats, column: Ints) -> Floats:
    """``values[u, column[u]]``, NaN where the column is -1."""
    if values.shape[1] == 0:
        return np.full(len(values), np.nan)
    picked = np.take_along_axis(values, np.maximum(column, 0)[:, None], axis=1)[:, 0]
    return np.where(column >= 0, picked, np.nan)


def _mean(values: Floats) -> float:
    """Mean of the known values; 0 without any, for a logged NaN would stop an ``EarlyStopping``."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _entropy(p: Floats) -> Floats:
    """Entropy in nats over the first axis, with 0 log 0 = 0."""
    positive = np.maximum(p, 0.0)
    return np.asarray(-(positive * np.log(np.where(positive > 0, positive, 1.0))).sum(axis=0))
