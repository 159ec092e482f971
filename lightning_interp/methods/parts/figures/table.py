"""What is said of a filter in tables, files and galleries: its figures for landmarks and parts."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interp.methods.parts.result import LayerParts, PartResult


@dataclass(frozen=True)
class FilterSummary:
    """A filter with its figures; NaN and None where there is none.

    Args:
        filter: Channel number, from 0.
        status: ``"ok"``, ``"dead"`` (never above 0) or ``"non-finite"``.
        category: Category of its largest mean activation, which interpretability and selectivity are of; -1 if it is
            not ok.
        instability: Location instability, in image diagonals.
        centre: That of peaks always at the centre of the image, on the images that the filter is judged by.
        best_constant: That of peaks always at the one best cell.
        random: That of random peaks.
        oracle: That of peaks always next to the landmark.
        location_category: Category of its largest mean peak, which landmark, correlation and R^2 are of, and the
            instability if the rule is ``"peak"``.
        landmark: The landmark of that category that it correlates with most.
        correlation: Displacement correlation with that.
        correlation_chance: The largest one with landmarks of other images.
        r2: R^2 of the displacement.
        interpretability: Part interpretability P_f.
        interpretability_chance: The same with the parts of other images.
        part: The part of P_f.
        purity: Share of its top peaks on one part.
        purity_chance: Share of the cells that this part covers.
        purity_constant: Largest share that one cell has.
        pure_part: That part.
        selectivity: Share of the mean activation that falls on the category.
    """

    filter: int
    status: str
    category: int
    instability: float = math.nan
    centre: float = math.nan
    best_constant: float = math.nan
    random: float = math.nan
    oracle: float = math.nan
    location_category: int | None = None
    landmark: str | None = None
    correlation: float = math.nan
    correlation_chance: float = math.nan
    r2: float = math.nan
    interpretability: float = math.nan
    interpretability_chance: float = math.nan
    part: str | None = None
    purity: float = math.nan
    purity_chance: float = math.nan
    purity_constant: float = math.nan
    pure_part: str | None = None
    selectivity: float = math.nan


def filter_summaries(result: PartResult, layer: LayerParts) -> list[FilterSummary]:
    """All filters of a layer, by channel number."""
    dead, category = layer.dead.tolist(), layer.category.tolist()
    columns = _location(result, layer) | _regions(result, layer)
    if layer.selectivity is not None:
        columns["selectivity"] = layer.selectivity.tolist()
    return [
        FilterSummary(
            filter=number,
            status="dead" if dead[number] else "non-finite" if own < 0 else "ok",
            category=own,
            **{name: values[number] for name, values in columns.items()},
        )
        for number, own in enumerate(category)
    ]


def _location(result: PartResult, layer: LayerParts) -> dict[str, list[Any]]:
    found = layer.location
    if found is None:
        return {}
    own, part = found.by_filter(result.rule), found.assigned_part()
    rows = torch.arange(len(part))
    at = rows, found.category.clamp(min=0)
    unknown = part < 0
    chance = found.correlation_chance[at].nan_to_num(nan=-torch.inf).amax(1)
    values = {
        "instability": own.filter,
        **{name: value for name, value in own._asdict().items() if name != "filter"},
        "correlation": _pick(found.correlation[at], part),
        "r2": _pick(found.r2[at], part),
        "correlation_chance": chance.masked_fill(unknown | chance.isinf(), torch.nan),
    }
    return {name: value.tolist() for name, value in values.items()} | {
        "location_category": [category if category >= 0 else None for category in found.category.tolist()],
        "landmark": _names(part, result.landmarks),
    }


def _regions(result: PartResult, layer: LayerParts) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    if layer.interpretability is not None and layer.chance is not None:
        columns["interpretability"] = layer.interpretability.by_filter.tolist()
        columns["interpretability_chance"] = layer.chance.by_filter.tolist()
        columns["part"] = _names(layer.interpretability.part, result.parts)
    pure = layer.purity
    if pure is not None:
        tables = {"purity": pure.by_part, "purity_chance": pure.area, "purity_constant": pure.best_constant}
        columns |= {name: _pick(table, pure.part).tolist() for name, table in tables.items()}
        columns["pure_part"] = _names(pure.part, result.parts)
    return columns


def _pick(table: Tensor, column: Tensor) -> Tensor:
    """``table[f, column[f]]``; NaN for a negative column."""
    return table.gather(1, column.clamp(min=0)[:, None])[:, 0].masked_fill(column < 0, torch.nan)


def _names(column: Tensor, names: tuple[str, ...]) -> list[Any]:
    return [names[at] if at >= 0 else None for at in column.tolist()]


def steadiest(summaries: list[FilterSummary], count: int) -> list[FilterSummary]:
    """At most ``count`` filters by rising instability, equal ones by channel number; those without one are left out."""
    scored = [each for each in summaries if not math.isnan(each.instability)]
    return sorted(scored, key=lambda each: each.instability)[:count]


def most_interpretable(summaries: list[FilterSummary], count: int) -> list[FilterSummary]:
    """At most ``count`` filters by falling part interpretability, equal ones by channel number."""
    scored = [each for each in summaries if not math.isnan(each.interpretability)]
    return sorted(scored, key=lambda each: -each.interpretability)[:count]


LOCATION_COLUMNS = (
    *("filter", "instability", "centre", "best constant", "landmark", "correlation", "chance", "R²"),
    *("purity", "purest on", "selectivity"),
)

PART_COLUMNS = (
    *("filter", "part", "interpretability", "chance", "purity", "purest on", "random", "best constant"),
    "selectivity",
)


def location_table(result: PartResult, layer: LayerParts, rows: int = 20) -> list[tuple[str, ...]]:
    """The ``rows`` steadiest filters as cells under :data:`LOCATION_COLUMNS`."""
    return [
        (
            str(f.filter),
            *map(_number, (f.instability, f.centre, f.best_constant)),
            f.landmark or "",
            *map(_number, (f.correlation, f.correlation_chance, f.r2, f.purity)),
            f.pure_part or "",
            _number(f.selectivity),
        )
        for f in steadiest(filter_summaries(result, layer), rows)
    ]


def part_table(result: PartResult, layer: LayerParts, rows: int = 20) -> list[tuple[str, ...]]:
    """The ``rows`` most part-interpretable filters as cells under :data:`PART_COLUMNS`."""
    return [
        (
            str(f.filter),
            f.part or "",
            *map(_number, (f.interpretability, f.interpretability_chance, f.purity)),
            f.pure_part or "",
            *map(_number, (f.purity_chance, f.purity_constant, f.selectivity)),
        )
        for f in most_interpretable(filter_summaries(result, layer), rows)
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else format(value, ".3f")
