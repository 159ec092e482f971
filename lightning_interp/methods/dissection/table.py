"""The per-unit CSV table of NetDissect: read, check, write.

Columns ``unit`` (from 1), ``category``, ``label`` and ``score`` of the best match, then for each category
``<category>-label``, ``-truth``, ``-activation``, ``-intersect`` and ``-iou``; the files in ``plot/`` of
https://github.com/CSAILVision/NetDissect are of this form.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from lightning_interp.errors import DatasetError
from lightning_interp.methods.dissection.maths.scores import Match, UnitRow

_OWN = ("unit", "category", "label", "score")
_MATCH = ("label", "truth", "activation", "intersect", "iou")


def read_unit_table(path: str | Path) -> tuple[list[UnitRow], tuple[str, ...]]:
    """Read a per-unit table, as published or as :func:`write_unit_table` writes it.

    Only counts and names are taken; scores follow from them
    (:func:`lightning_interp.methods.dissection.maths.scores.layer_scores`). A label may be empty, as in published
    tables.

    Returns:
        Rows in the order of the file, units from 0, and the categories in the order of the columns.

    Raises:
        DatasetError: If the file is not such a table; the message names file and line.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return _parse(csv.DictReader(file, strict=True), str(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a per-unit table: {error}") from error


def _parse(reader: "csv.DictReader[str]", path: str) -> tuple[list[UnitRow], tuple[str, ...]]:
    header = reader.fieldnames or ()
    categories = tuple(name.removesuffix("-label") for name in header if name.endswith("-label"))
    missing = {"unit", *(f"{c}-{part}" for c in categories for part in _MATCH)} - set(header)
    if missing or not categories or len(set(header)) < len(header):
        what = f"no column {min(missing)!r}" if missing else "no category's columns, or a column twice"
        raise DatasetError(f"{path}, line 1: {what}")
    rows: list[UnitRow] = []
    seen: set[int] = set()
    for line in reader:
        place = f"{path}, line {reader.line_num}"
        if None in line or None in line.values():
            raise DatasetError(f"{place}: not {len(header)} cells, as the header has")
        unit = _count(line["unit"], f"{place}, column 'unit'") - 1
        if unit < 0 or unit in seen:
            raise DatasetError(f"{place}: unit {unit + 1} is below 1 or was there before")
        seen.add(unit)
        rows.append(UnitRow(unit, _matches(line, categories, place)))
    return rows, categories


def _matches(line: Mapping[str, str], categories: Iterable[str], place: str) -> dict[str, Match]:
    matches = {}
    for category in categories:
        if line[f"{category}-truth"] == "":
            continue
        truth, activation, intersect = (
            _count(line[f"{category}-{part}"], f"{place}, column '{category}-{part}'") for part in _MATCH[1:4]
        )
        matches[category] = Match(line[f"{category}-label"], truth, activation, intersect)
    return matches


def _count(cell: str, place: str) -> int:
    """A count, which published tables write as ``1016043.0`` in some columns."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (value >= 0 and value.is_integer() and value <= 2**53):
        raise DatasetError(f"{place}: {cell[:40]!r} is not a count")
    return int(value)


def write_unit_table(file: TextIO, rows: Sequence[UnitRow], categories: Sequence[str]) -> None:
    """Write a per-unit table to a text file opened with ``newline=""``, best unit first.

    A unit without a match in a category, or in any, has empty cells there.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_OWN, *(f"{c}-{part}" for c in categories for part in _MATCH)])
    for row in sorted(rows, key=lambda row: -row.best[1].iou if row.best else math.inf):
        category, label, score = (row.best[0], row.best[1].label, row.best[1].iou) if row.best else ("",) * 3
        cells: list[object] = [row.unit + 1, category, label, score]
        for name in categories:
            match = row.matches.get(name)
            cells += (
                [match.label, match.truth, match.activation, match.intersect, match.iou]
                if match
                else [""] * len(_MATCH)
            )
        writer.writerow(cells)
