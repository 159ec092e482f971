"""What only a training-time tool can show: each unit's concept, probe by probe."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_interp.drawing.figures import literal_legend, new_figure, quiet, whole_ticks
from lightning_interp.drawing.palette import EMPTY, INK, MUTED, category_color, ordered
from lightning_interp.drawing.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL_SHARE = 1 / 40
_MARKS_PER_HEIGHT = 240  # marks of a wide layer stay long enough to see


class _Cell(NamedTuple):
    """A unit at a probe: the concept it detects; two None for no detector."""

    category: str | None
    concept: str | None


def concept_timeline(history: Sequence[Mapping[str, Any]], layer: str) -> "Figure":
    """Units x probes, coloured by the category of the concept that a unit detects; light grey for none.

    Units are sorted by what they detect at the last probe; a dark mark is a unit that went over to another
    concept. Above: the number of detectors by category.

    Args:
        history: One dict a probe, oldest first, epoch -1 before training: ``{"epoch": int, "labels": {layer:
            list[str | None]}, "categories": {layer: list[str | None]}}``, None for a unit that is no detector.
        layer: Which layer.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ValueError: If the history is empty.
    """
    if not history:
        raise ValueError("a timeline needs at least one probe")
    probes = [
        [_Cell(*pair) for pair in zip(probe["categories"][layer], probe["labels"][layer], strict=True)]
        for probe in history
    ]
    names = ordered(cell.category for probe in probes for cell in probe if cell.category is not None)
    units = sorted(zip(*probes, strict=True), key=lambda row: _place(row, names))
    figure = new_figure(min(3.6 + 0.42 * len(history), 11.0), 6.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 4])
    _draw_counts(above, probes, names)
    _draw_units(below, units)
    _label_blocks(below, units)
    _label_probes(below, [int(probe["epoch"]) for probe in history])
    above.set_title(f"{clean(layer)}: what each unit detects", loc="left", fontsize=12, color=INK,
                    parse_math=False)  # fmt: skip
    return figure


def _place(row: Sequence[_Cell], names: list[str]) -> tuple[int, str, int, int]:
    """Sort key: last category and concept, then first detection; those without, by their last detection."""
    detected = [i for i, cell in enumerate(row) if cell.category is not None]
    first, last = (detected[0], -detected[-1]) if detected else (len(row), 0)
    category, concept = row[-1]
    if category is None:
        return len(names), "", last, first
    return names.index(category), concept or "", first, last


def _draw_counts(axes: "Axes", probes: Sequence[Sequence[_Cell]], names: list[str]) -> None:
    counts = [Counter(cell.category for cell in probe) for probe in probes]
    base = np.zeros(len(probes))
    for name in names:
        height = np.array([c[name] for c in counts])
        axes.bar(np.arange(len(probes)), height, bottom=base, width=0.8, color=category_color(name), label="x")
        base = base + height
    quiet(axes, "bottom")
    axes.set_ylabel("detectors", fontsize=9, color=MUTED)
    whole_ticks(axes, 3)
    if names:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), frameon=False, fontsize=9,
                             labelcolor=INK, handlelength=0.9, handleheight=0.9)  # fmt: skip
        literal_legend(legend, [clean(name, 20) for name in names])


def _draw_units(axes: "Axes", units: Sequence[Sequence[_Cell]]) -> None:
    colors = _rgb([category_color(c.category) if c.category else EMPTY for row in units for c in row])
    axes.imshow(colors.reshape(len(units), -1, 3), aspect="auto", interpolation="nearest")
    went_over = [
        (i, u)
        for u, row in enumerate(units)
        for i in range(1, len(row))
        if row[i].category and row[i - 1].category and row[i] != row[i - 1]
    ]
    if went_over:
        x, y = np.array(went_over).T
        half = max(0.5, len(units) / _MARKS_PER_HEIGHT)
        axes.vlines(x - 0.5, y - half, y + half, colors=INK, lw=1.6)
    quiet(axes)
    axes.set_ylabel(f"{len(units)} units, by what they detect last", fontsize=9, color=MUTED)
    axes.set_xlabel("epoch", fontsize=9, color=MUTED)


def _rgb(colors: Sequence[str]) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """``(N, 3)`` uint8 from ``#RRGGBB``."""
    return np.array([list(bytes.fromhex(color[1:])) for color in colors], dtype=np.uint8)


def _label_blocks(axes: "Axes", units: Sequence[Sequence[_Cell]]) -> None:
    """Name, at the right, each run of units of one concept that is high enough to carry a line of text."""
    axes.set_yticks([])
    last = [row[-1] for row in units]
    starts = [i for i, cell in enumerate(last) if i == 0 or cell != last[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(last)], strict=True):
        if end - start >= _LABEL_SHARE * len(last):
            axes.hlines([start - 0.5, end - 0.5], *axes.get_xlim(), colors="white", lw=0.8)
            category, concept = last[start]
            text = clean(concept or "", 28) if category else "no detector"
            color = category_color(category) if category else MUTED
            axes.text(1.01, (start + end - 1) / 2, text, transform=axes.get_yaxis_transform(), color=color,
                      fontsize=9, va="center", parse_math=False)  # fmt: skip


def _label_probes(axes: "Axes", epochs: Sequence[int]) -> None:
    step = -(-len(epochs) // 14)
    axes.set_xticks(range(0, len(epochs), step), ["start" if e < 0 else str(e) for e in epochs[::step]])
