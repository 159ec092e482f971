"""What is said of a unit in every gallery, table, file and report, and in which order units are shown."""

import math
from collections import defaultdict
from dataclasses import dataclass

from lightning_interp.drawing.text import clean
from lightning_interp.methods.dissection.result import LayerDissection


@dataclass(frozen=True)
class UnitSummary:
    """A unit with its best concept.

    Args:
        unit: Channel number, from 0.
        status: One of ``results.UNIT_STATES``.
        concept: Name of the best concept; None for a unit without one.
        category: Its category.
        iou: IoU with it; NaN for a unit without one.
        chance_iou: The unit's largest IoU against re-paired labels; NaN where it has none.
        threshold: Activations above this are the unit's mask; NaN for a unit that saw NaN or infinity.
        nonfinite: Number of NaN and infinite activations.
        detector: Whether the IoU is above the layer's threshold.
        beats_chance: Whether it is above the layer's null maximum.
    """

    unit: int
    status: str
    concept: str | None
    category: str | None
    iou: float
    chance_iou: float
    threshold: float
    nonfinite: int
    detector: bool
    beats_chance: bool

    @property
    def title(self) -> str:
        """What it is: ``unit 12  eyebrow (part)  IoU 0.21``."""
        if self.concept is None or self.category is None:
            return f"unit {self.unit}"
        return f"unit {self.unit}  {clean(self.concept)} ({clean(self.category, 20)})  IoU {self.iou:.2f}"

    @property
    def caveat(self) -> str:
        """Why the concept is not to be relied on; empty for a detector that beats chance."""
        if self.status != "ok":
            return f"not scored: {self.status}"
        if self.concept is None:
            return "no concept"
        doubts = [] if self.detector else ["below threshold"]
        return ", ".join(doubts + ([] if self.beats_chance else ["within chance"]))


def unit_summaries(layer: LayerDissection) -> list[UnitSummary]:
    """All units, by channel number."""
    concepts = [layer.concepts[c] if c >= 0 else None for c in layer.best]
    return [
        UnitSummary(
            unit=unit,
            status=layer.status[unit],
            concept=concept.name if concept else None,
            category=concept.category if concept else None,
            iou=float(layer.best_iou[unit]),
            chance_iou=float(layer.chance_best_iou[unit]),
            threshold=float(layer.thresholds[unit]),
            nonfinite=int(layer.nonfinite[unit]),
            detector=bool(layer.is_detector[unit]),
            beats_chance=bool(layer.beats_chance[unit]),
        )
        for unit, concept in enumerate(concepts)
    ]


def ranked(layer: LayerDissection) -> list[UnitSummary]:
    """All units by falling IoU, equal ones by channel number, those without a concept last."""
    return sorted(unit_summaries(layer), key=lambda u: (math.isnan(u.iou), -u.iou))


def gallery_units(layer: LayerDissection, count: int) -> tuple[int, ...]:
    """Units worth looking at: the best of every concept, then the second best of every concept...

    Keep the answer for :func:`lightning_interp.methods.dissection.figures.gallery.unit_gallery` at later epochs, so
    that a row stays with its unit.

    Returns:
        At most ``count`` different channel numbers.
    """
    turns: defaultdict[tuple[str | None, str | None], int] = defaultdict(int)
    order = []
    for summary in ranked(layer):
        concept = summary.category, summary.concept
        order.append((summary.concept is None, turns[concept], summary.unit))
        turns[concept] += 1
    # Python's sort is stable: within a turn the better unit stays ahead.
    return tuple(unit for *_, unit in sorted(order, key=lambda place: place[:2])[:count])


COLUMNS = ("unit", "concept", "category", "IoU", "chance", "threshold", "remark")


def unit_table(layer: LayerDissection, rows: int = 20) -> list[tuple[str, ...]]:
    """The ``rows`` best units as cells under :data:`COLUMNS`."""
    return [
        (
            str(u.unit),
            u.concept or "",
            u.category or "",
            _number(u.iou),
            _number(u.chance_iou),
            _number(u.threshold, ".4g"),
            u.caveat,
        )
        for u in ranked(layer)[:rows]
    ]


def _number(value: float, form: str = ".3f") -> str:
    return "" if math.isnan(value) else format(value, form)
