"""Files of a dissection: written whole or not at all, read back exactly, without pickle."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lightning_interp.data.probe import Concept
from lightning_interp.methods.dissection.figures.units import unit_summaries
from lightning_interp.methods.dissection.result import DissectionResult, LayerDissection, Tallies, TopImages
from lightning_interp.methods.dissection.table import write_unit_table
from lightning_interp.results.files import read_document, read_safetensors, reading, slug, write_result

RESULT = DissectionResult.FILE


_FORMAT = 1


def save_result(result: DissectionResult, folder: Path) -> Path:
    """Write ``dissection.json``, and for each layer ``units_<layer>.csv`` and ``<layer>.safetensors``.

    The CSV has NetDissect's columns (:mod:`lightning_interp.methods.dissection.table`). The JSON comes last: where it
    is, the folder is complete. Without safetensors the arrays are left out, with a warning.

    Returns:
        The path of the JSON file.
    """
    arrays = {f"{slug(name)}.safetensors": _arrays(layer) for name, layer in result.layers.items()}
    tables = {f"units_{slug(name)}.csv": _table(layer) for name, layer in result.layers.items()}
    return write_result(folder, RESULT, {"format": _FORMAT, **_document(result)}, texts=tables, arrays=arrays)


def _table(layer: LayerDissection) -> str:
    table = StringIO(newline="")
    write_unit_table(table, layer.rows, layer.categories)
    return table.getvalue()


def _document(result: DissectionResult) -> dict[str, Any]:
    return {
        "num_images": result.num_images,
        "seconds": result.seconds,
        "settings": dict(result.settings),
        "meta": dict(result.meta),
        "scalars": result.scalars(),
        "layers": [_layer_document(layer) for layer in result.layers.values()],
    }


def _layer_document(layer: LayerDissection) -> dict[str, Any]:
    units = [
        asdict(summary) | {"top_images": [int(i) for i in layer.top.index[summary.unit] if i >= 0]}
        for summary in unit_summaries(layer)
    ]
    return {
        "layer": layer.layer,
        "files": slug(layer.layer),
        "categories": layer.categories,
        "concepts": [[c.number, c.name, c.category] for c in layer.concepts],
        "iou_threshold": layer.iou_threshold,
        "anchors": layer.anchors,
        "border": layer.border,
        "units": units,
    }


def _arrays(layer: LayerDissection) -> dict[str, NDArray[Any]]:
    parts: dict[str, Tallies | TopImages] = {
        "tallies": layer.tallies,
        "chance": layer.chance,
        "top": layer.top,
    }
    arrays = {f"{p}.{f.name}": getattr(part, f.name) for p, part in parts.items() for f in fields(part)}
    return arrays | {"thresholds": layer.thresholds, "nonfinite": layer.nonfinite}


def load_result(folder: Path) -> DissectionResult:
    """Read what :func:`save_result` wrote; every array and number is the same, bit for bit.

    Settings and meta come back as JSON has them: tuples as lists.

    Raises:
        DatasetError: If the folder holds no complete result, or one saved without its arrays.
        MissingExtraError: If safetensors is not installed.
    """
    path = Path(folder) / RESULT
    with reading(path):
        document = read_document(path, _FORMAT)
        layers = [_load_layer(Path(folder), data) for data in document["layers"]]
        return DissectionResult(
            layers={layer.layer: layer for layer in layers},
            num_images=document["num_images"],
            settings=document["settings"],
            seconds=document["seconds"],
            meta=document["meta"],
        )


def _load_layer(folder: Path, data: Mapping[str, Any]) -> LayerDissection:
    # The file's name follows from the layer's; a path out of the document could lead anywhere.
    arrays = read_safetensors(folder / f"{slug(data['layer'])}.safetensors")

    def part(kind: type, name: str) -> Any:
        return kind(**{f.name: arrays[f"{name}.{f.name}"] for f in fields(kind)})

    rows, columns = data["anchors"]
    return LayerDissection(
        layer=data["layer"],
        concepts=tuple(Concept(*concept) for concept in data["concepts"]),
        categories=tuple(data["categories"]),
        thresholds=arrays["thresholds"],
        status=tuple(unit["status"] for unit in data["units"]),
        nonfinite=arrays["nonfinite"],
        tallies=part(Tallies, "tallies"),
        chance=part(Tallies, "chance"),
        top=part(TopImages, "top"),
        iou_threshold=data["iou_threshold"],
        anchors=(tuple(rows), tuple(columns)),
        border=data["border"],
    )
