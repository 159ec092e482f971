"""One static page about a network: scores against chance, detectors by concept, every unit's top images."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from lightning_interp.data.probe import ProbeSet
from lightning_interp.drawing.pages import page_environment
from lightning_interp.drawing.palette import NEUTRAL
from lightning_interp.drawing.pictures import Picture, to_picture
from lightning_interp.methods.dissection.figures.bars import concept_counts, headline, most_counted
from lightning_interp.methods.dissection.figures.gallery import unit_strip
from lightning_interp.methods.dissection.figures.units import ranked
from lightning_interp.methods.dissection.result import DissectionResult, LayerDissection
from lightning_interp.results.files import slug, write_jpeg, write_text

PAGE = "report.html"
IMAGES = "report_images"

_TILE = 128
_COLUMNS = 5
_BARS_PER_CATEGORY = 20
_CACHED_IMAGES = 1024


class Tile(NamedTuple):
    """A number at the head of a layer, with what chance gives or what it means."""

    name: str
    value: str
    note: str


class Line(NamedTuple):
    """A line of the history chart: by probe, place in per cent from the upper left, and value."""

    name: str
    color: str
    points: list[tuple[float, float, int]]


History = Sequence[tuple[str, Mapping[str, float]]]


def write_report(result: DissectionResult, probe: ProbeSet, folder: str | Path, history: History = ()) -> Path:
    """Write ``report.html`` and, beside it, ``report_images/``; the page needs no network.

    Args:
        result: What to show.
        probe: The probe set that it was made with.
        folder: Where to write; made if absent.
        history: The probes so far, oldest first, as ``(name, result.scalars())``; with two or more, a chart shows
            the number of detectors over them.

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    environment = page_environment("lightning_interp.methods.dissection")
    page = environment.get_template("report.html.jinja").render(
        result=result,
        layers=[_layer(result, name, probe, folder, history) for name in result.layers],
        settings=_flat(result.settings),
        meta=_flat(result.meta),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _layer(result: DissectionResult, name: str, probe: ProbeSet, folder: Path, history: History) -> dict[str, Any]:
    layer = result.layers[name]
    size = result.settings.get("mask_size", probe.mask_size)
    known = [(epoch, scalars) for epoch, scalars in history if f"{name}/detectors" in scalars]
    return {
        "name": name,
        "headline": headline(layer),
        "tiles": _tiles(layer),
        "bars": _bars(layer),
        "lines": _history(name, [scalars for _, scalars in known]),
        "epochs": [epoch for epoch, _ in known],
        "categories": sorted({s.category for s in ranked(layer) if s.category}),
        "threshold": layer.iou_threshold,
        "units": ranked(layer),
        "images": _write_images(layer, probe, (size[0], size[1]), folder),
    }


def _write_images(layer: LayerDissection, probe: ProbeSet, mask_size: tuple[int, int], folder: Path) -> dict[int, str]:
    """One strip a scored unit; gives their places relative to the page."""

    @lru_cache(_CACHED_IMAGES)
    def image(index: int) -> Picture:
        return to_picture(probe.image(index))

    places = {}
    for unit in range(layer.num_units):
        if layer.status[unit] == "ok":
            places[unit] = f"{IMAGES}/{slug(layer.layer)}/unit_{unit:04d}.jpg"
            strip = unit_strip(layer, image, unit, mask_size, tile=_TILE, columns=_COLUMNS, gap=NEUTRAL)
            write_jpeg(folder / places[unit], strip)
    return places


def _tiles(layer: LayerDissection) -> list[Tile]:
    scores, chance, numbers = layer.scores, layer.chance_scores, layer.scalars()
    return [
        Tile("detectors", str(scores.detectors), f"by chance {chance.detectors}"),
        Tile("unique concepts", str(scores.unique_detectors), f"by chance {chance.unique_detectors}"),
        Tile("interpretable", f"{numbers['interpretable_share']:.0%}", f"of {scores.units} units"),
        Tile(
            "beat chance",
            str(int(numbers["beats_chance"])),
            f"units above IoU {numbers['max_iou_by_chance']:.2f}",
        ),
        Tile("best IoU", f"{numbers['max_iou']:.2f}", f"mean of units {numbers['mean_iou']:.3f}"),
        Tile("not scored", str(int(numbers["invalid_units"])), "constant or non-finite units"),
    ]


def _bars(layer: LayerDissection) -> list[dict[str, Any]]:
    """Counts by category, with lengths in per cent of the layer's longest."""
    counts = concept_counts(layer)
    longest = max((max(n.units, n.by_chance) for n in counts), default=1)
    groups = []
    for category, group in groupby(counts, key=lambda n: n.category):
        members = list(group)
        shown = most_counted(members, _BARS_PER_CATEGORY)
        bars = [(n, 100 * n.units / longest, 100 * n.by_chance / longest) for n in shown]
        groups.append({"category": category, "bars": bars, "more": len(members) - len(shown)})
    return groups


def _history(layer: str, probes: Sequence[Mapping[str, float]]) -> list[Line]:
    names = (
        ("detectors", "detectors", "#0072B2"),
        ("unique concepts", "unique_detectors", "#D55E00"),
        ("detectors by chance", "detectors_by_chance", NEUTRAL),
    )
    series = {(name, color): [int(p[f"{layer}/{key}"]) for p in probes] for name, key, color in names}
    top = max((max(values, default=0) for values in series.values()), default=0) or 1
    across = max(len(probes) - 1, 1)
    return [
        Line(name, color, [(100 * i / across, 100 - 100 * v / top, v) for i, v in enumerate(values)])
        for (name, color), values in series.items()
    ]


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines of a table."""
    lines: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", str(value)))
    return lines
