"""Results as plain text for a terminal: the best units of a layer, and its counts beside chance."""

from collections.abc import Sequence

from lightning_interp.drawing.text import clean
from lightning_interp.methods.dissection.figures.bars import headline
from lightning_interp.methods.dissection.figures.units import COLUMNS, gallery_units, unit_table
from lightning_interp.methods.dissection.page import History
from lightning_interp.methods.dissection.result import LayerDissection

_COUNTS = {
    "detectors": "detectors",
    "by chance": "detectors_by_chance",
    "concepts": "unique_detectors",
    "concepts by chance": "unique_by_chance",
    "beat chance": "beats_chance",
}


def unit_lines(layer: LayerDissection, rows: int = 10, *, variety: bool = False) -> str:
    """A headline and the ``rows`` best units, one a line; with ``variety`` the best of every concept first."""
    table = unit_table(layer, layer.num_units)
    if variety:
        by_unit = {row[0]: row for row in table}
        table = [by_unit[str(unit)] for unit in gallery_units(layer, rows)]
    return f"{headline(layer)}\n{aligned([COLUMNS, *table[:rows]])}"


def count_lines(history: History, layer: str) -> str:
    """How many units of ``layer`` detect a concept, and how many distinct ones, at each probe; chance beside each.

    Args:
        history: The probes, oldest first, as ``(name, result.scalars())``.
        layer: Module path.
    """
    rows = [("probe", *_COUNTS, "mean IoU")]
    for name, scalars in history:
        counts = (f"{scalars[f'{layer}/{key}']:.0f}" for key in _COUNTS.values())
        rows.append((name, *counts, f"{scalars[f'{layer}/mean_iou']:.3f}"))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first row is the head, with a rule below it."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
