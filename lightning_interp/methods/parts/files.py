"""Files of filters and parts: written whole or not at all, read back exactly, without pickle."""

import csv
from collections.abc import Mapping
from dataclasses import astuple, fields
from io import StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.functional.location import CategoryRule, LocationScores
from lightning_interp.functional.location_references import Deviations
from lightning_interp.functional.part_overlap import PartInterpretability, PartPurity
from lightning_interp.methods.parts.figures.table import FilterSummary, filter_summaries
from lightning_interp.methods.parts.result import LayerParts, PartResult, TopPeaks
from lightning_interp.results.files import read_document, read_safetensors, reading, slug, write_result

PARTS = PartResult.FILE
_FORMAT = 1
_OWN = ("dead", "category", "selectivity")
# What a layer may hold, by field.
_KINDS: Mapping[str, type] = {
    "location": LocationScores,
    "purity": PartPurity,
    "interpretability": PartInterpretability,
    "chance": PartInterpretability,
}


def save_parts(result: PartResult, folder: Path) -> Path:
    """Write ``parts.json``, and for each layer ``filters_<layer>.csv`` and ``<layer>.safetensors``.

    The CSV has a row a filter, the fields of a :class:`~lightning_interp.methods.parts.figures.table.FilterSummary`,
    with empty cells for what is not known. The JSON comes last: where it is, the folder is complete. Without
    safetensors the arrays are left out, with a warning.

    Returns:
        The path of the JSON file.
    """
    document = {
        "format": _FORMAT,
        "layers": list(result.layers),
        "landmarks": result.landmarks,
        "parts": result.parts,
        "rule": result.rule,
        "num_images": result.num_images,
        "settings": result.settings,
        "seconds": result.seconds,
        "meta": result.meta,
        "scalars": result.scalars(),
    }
    layers = {slug(name): layer for name, layer in result.layers.items()}
    tables = {f"filters_{name}.csv": _filter_csv(filter_summaries(result, layer)) for name, layer in layers.items()}
    arrays = {f"{name}.safetensors": _arrays(layer) for name, layer in layers.items()}
    return write_result(folder, PARTS, document, texts=tables, arrays=arrays)


def _filter_csv(summaries: list[FilterSummary]) -> str:
    table = StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow([field.name for field in fields(FilterSummary)])
    for summary in summaries:
        writer.writerow(["" if value is None or value != value else value for value in astuple(summary)])
    return table.getvalue()


def _arrays(layer: LayerParts) -> dict[str, NDArray[Any]]:
    tensors: dict[str, Tensor] = {name: value for name in _OWN if (value := getattr(layer, name)) is not None}
    tensors |= {f"top.{name}": value for name, value in layer.top._asdict().items()}
    for kind in _KINDS:
        part = getattr(layer, kind)
        for field in fields(part) if part is not None else ():
            value = getattr(part, field.name)
            if isinstance(value, Deviations):
                tensors |= {f"{kind}.{field.name}.{name}": own for name, own in value._asdict().items()}
            else:
                exact = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
                tensors[f"{kind}.{field.name}"] = exact
    return {name: value.numpy() for name, value in tensors.items()}


def load_parts(folder: Path) -> PartResult:
    """Read what :func:`save_parts` wrote; every array and number is the same, bit for bit.

    Settings and meta come back as JSON has them: tuples as lists.

    Raises:
        DatasetError: If the folder holds no complete result, or one saved without its arrays.
        MissingExtraError: If safetensors is not installed.
    """
    path = Path(folder) / PARTS
    with reading(path):
        document = read_document(path, _FORMAT)
        if document["rule"] not in ("least", "peak"):
            raise DatasetError(f"{path}: rule {document['rule']!r}, expected 'least' or 'peak'")
        return PartResult(
            # The file's name follows from the layer's; a path out of the document could lead anywhere.
            layers={
                str(name): _layer(str(name), read_safetensors(Path(folder) / f"{slug(str(name))}.safetensors"))
                for name in document["layers"]
            },
            landmarks=tuple(document["landmarks"]),
            parts=tuple(document["parts"]),
            rule=cast(CategoryRule, document["rule"]),
            num_images=document["num_images"],
            settings=document["settings"],
            seconds=document["seconds"],
            meta=document["meta"],
        )


def _layer(name: str, arrays: Mapping[str, NDArray[Any]]) -> LayerParts:
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    parts = {kind: _part(kind, own, tensors) for kind, own in _KINDS.items() if any(_of(kind, key) for key in tensors)}
    return LayerParts(
        layer=name,
        dead=tensors["dead"],
        category=tensors["category"],
        selectivity=tensors.get("selectivity"),
        top=TopPeaks(tensors["top.image"], tensors["top.point"]),
        **parts,
    )


def _of(kind: str, key: str) -> bool:
    return key.startswith(f"{kind}.")


def _part(kind: str, own: type, tensors: Mapping[str, Tensor]) -> Any:
    values: dict[str, Any] = {}
    for field in fields(own):
        if field.name == "deviations":
            values[field.name] = Deviations(*(tensors[f"{kind}.deviations.{each}"] for each in Deviations._fields))
        elif field.name == "mean":
            values[field.name] = float(tensors[f"{kind}.mean"])
        else:
            values[field.name] = tensors[f"{kind}.{field.name}"]
    return own(**values)
