"""Interpretability scores of a layer from its per-unit table: detectors and unique detectors, by two rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Match:
    """A unit against one concept, in pixels summed over the images that count.

    Args:
        label: The concept's name.
        truth: Pixels of the concept, G.
        activation: Pixels of the unit's mask on images that carry the concept's category, A.
        intersect: Pixels of both, I.
    """

    label: str
    truth: int
    activation: int
    intersect: int

    @property
    def iou(self) -> float:
        """I / (A + G - I) in float64; NaN where the union is empty."""
        union = self.activation + self.truth - self.intersect
        return self.intersect / union if union else float("nan")


@dataclass(frozen=True)
class UnitRow:
    """One line of the per-unit table: the best concept of each category.

    Args:
        unit: Channel number, from 0.
        matches: By category, the best match of that category; a category without one is absent.
    """

    unit: int
    matches: Mapping[str, Match]

    @property
    def best(self) -> tuple[str, Match] | None:
        """Category and match of the largest IoU (the first of equals), or None if every IoU is NaN."""
        scored = [(c, m) for c, m in self.matches.items() if m.iou == m.iou]
        return max(scored, key=lambda pair: pair[1].iou) if scored else None


@dataclass(frozen=True)
class LayerScores:
    """Counts of a layer; see :func:`layer_scores`."""

    units: int
    detectors: int
    unique_detectors: int
    unique_by_category: int
    category_detectors: Mapping[str, int]
    category_unique: Mapping[str, int]


def layer_scores(rows: Sequence[UnitRow], categories: Sequence[str], iou_threshold: float = 0.04) -> LayerScores:
    """Count a layer's detectors by both published rules.

    Args:
        rows: One row a unit, invalid units included (with no matches).
        categories: Categories to report, in order.
        iou_threshold: A unit detects a concept if its IoU is *above* this.

    Returns:
        ``detectors``: units whose best concept passes. ``unique_detectors``: distinct concepts among those
        best ones (Bau et al. 2017, section 2.2). ``category_detectors`` and ``category_unique``: the same within
        each category, where a unit may count in several; ``unique_by_category`` is the sum of the latter, the
        bar that NetDissect's ``plot/extract_csv.m`` draws and the paper's figures show.

    Example:
        >>> rows = [UnitRow(0, {"part": Match("eye", 10, 10, 10), "color": Match("red", 20, 10, 10)}),
        ...         UnitRow(1, {"part": Match("eye", 10, 10, 5)})]
        >>> scores = layer_scores(rows, ["part", "color"])
        >>> scores.detectors, scores.unique_detectors, scores.unique_by_category
        (2, 1, 2)
    """
    best = [row.best for row in rows]
    top = [(c, m.label) for c, m in filter(None, best) if m.iou > iou_threshold]
    passing: dict[str, list[str]] = {category: [] for category in categories}
    for row in rows:
        for category, match in row.matches.items():
            if category in passing and match.iou > iou_threshold:
                passing[category].append(match.label)
    unique = {category: len(set(labels)) for category, labels in passing.items()}
    return LayerScores(
        units=len(rows),
        detectors=len(top),
        unique_detectors=len(set(top)),
        unique_by_category=sum(unique.values()),
        category_detectors={category: len(labels) for category, labels in passing.items()},
        category_unique=unique,
    )
