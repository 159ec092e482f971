"""The classic bar chart of a layer: how many units detect each concept."""

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_interp.drawing.figures import new_figure, quiet, whole_ticks
from lightning_interp.drawing.palette import INK, MUTED, NEUTRAL, category_color
from lightning_interp.drawing.text import clean
from lightning_interp.methods.dissection.result import LayerDissection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 80
_FEWEST_SLOTS = 16  # so that one bar alone does not fill the figure
_LETTERS_PER_SLOT = 4


class ConceptCount(NamedTuple):
    """Units whose best concept is this one, with an IoU above the layer's threshold.

    Attributes:
        concept: Name.
        category: Its category.
        units: How many.
        by_chance: How many against re-paired labels.
    """

    concept: str
    category: str
    units: int
    by_chance: int


def concept_counts(layer: LayerDissection) -> list[ConceptCount]:
    """Every concept that a unit detects, by chance or not: by category, falling count, name."""
    found = Counter(layer.best[layer.is_detector].tolist())
    iou = np.nan_to_num(layer.chance_iou, nan=-1.0)
    by_chance = iou.max(axis=1, initial=-1.0) > layer.iou_threshold
    chance = Counter(iou[by_chance].argmax(axis=1).tolist() if by_chance.any() else [])
    counts = [
        ConceptCount(layer.concepts[c].name, layer.concepts[c].category, found[c], chance[c])
        for c in found.keys() | chance.keys()
    ]
    order = {category: i for i, category in enumerate(layer.categories)}
    return sorted(counts, key=lambda n: (order[n.category], -n.units, -n.by_chance, n.concept))


def most_counted(counts: list[ConceptCount], limit: int) -> list[ConceptCount]:
    """The ``limit`` largest counts, in the order they came in."""
    kept = sorted(range(len(counts)), key=lambda i: (-counts[i].units, -counts[i].by_chance))[:limit]
    return [counts[i] for i in sorted(kept)]


def headline(layer: LayerDissection) -> str:
    """One line on what a layer detects."""
    found, chance = layer.scores, layer.chance_scores
    concepts = "concept" if found.unique_detectors == 1 else "concepts"
    return (
        f"{found.detectors} of {found.units} units detect {found.unique_detectors} {concepts} "
        f"(by chance {chance.detectors} and {chance.unique_detectors})"
    )


def detector_bars(layer: LayerDissection) -> "Figure":
    """Detectors by concept, grouped and coloured by category; beside each bar what chance gives, hollow.

    Each unit counts once, for its best concept. At most 80 concepts are drawn, those with most units.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    counts = concept_counts(layer)
    shown = most_counted(counts, _MOST_BARS)
    figure = new_figure(max(6.4, 1.2 + 0.24 * len(shown)), 3.9)
    axes = figure.add_subplot()
    quiet(axes, "bottom")
    figure.suptitle(
        f"{clean(layer.layer)}: {headline(layer)}",
        x=0.01,
        ha="left",
        fontsize=11,
        color=INK,
        parse_math=False,
    )
    if not shown:
        axes.text(0.5, 0.5, "no detectors", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_xticks([])
        axes.set_yticks([])
        return figure
    _draw_bars(axes, shown)
    if len(shown) < len(counts):
        axes.set_xlabel(f"and {len(counts) - len(shown)} concepts more", fontsize=9, color=MUTED, loc="right")
    return figure


def _draw_bars(axes: "Axes", shown: list[ConceptCount]) -> None:
    """Bars with a gap between categories, the category's name above its group."""
    starts = [i for i, n in enumerate(shown) if i == 0 or n.category != shown[i - 1].category]
    group = np.cumsum([i in starts for i in range(len(shown))]) - 1
    place = np.arange(len(shown)) + 0.8 * group
    colors = [category_color(n.category) for n in shown]
    axes.bar(place - 0.16, [n.units for n in shown], width=0.56, color=colors)
    axes.bar(place + 0.28, [n.by_chance for n in shown], width=0.26, color="white", edgecolor=NEUTRAL, lw=1)
    axes.set_xticks(place, [clean(n.concept, 28) for n in shown], rotation=90, parse_math=False)
    axes.set_xlim(-0.8, max(place[-1] + 0.8, _FEWEST_SLOTS))
    whole_ticks(axes, 6)
    axes.set_ylabel("units (hollow: by chance)", fontsize=9, color=MUTED)
    axes.grid(axis="y", color="#E8EAED", lw=0.8)
    axes.set_axisbelow(True)
    for i in starts:
        name, size = clean(shown[i].category, 20), sum(n.category == shown[i].category for n in shown)
        axes.text(
            place[i] - 0.44,
            1.01,
            name,
            transform=axes.get_xaxis_transform(),
            color=colors[i],
            fontsize=9,
            weight="bold",
            parse_math=False,
            rotation=0 if len(name) <= _LETTERS_PER_SLOT * size else 35,
        )
