"""Files of results: written whole or not at all, read back exactly, without pickle."""

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_interp._extras import available, require
from lightning_interp.data.probe import Concept
from lightning_interp.errors import DatasetError
from lightning_interp.report.table import write_unit_table
from lightning_interp.results import DissectionResult, LayerDissection, Tallies, TopImages
from lightning_interp.viz.units import unit_summaries

RESULT = "dissection.json"
_FORMAT = 1


def slug(name: str) -> str:
    """A file name for a layer or concept: letters, digits, ``. _ -``, at most 64 characters.

    A name that had to be changed carries six digits of its SHA-256, so that two names never share a file.

    Example:
        >>> slug("layer4.0"), slug("../a b")
        ('layer4.0', 'a-b-2c2c79')
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:57]
    if plain and plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}".strip("-")


@contextmanager
def _atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when the body ends, and is gone if the body fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically; what UTF-8 cannot hold (a lone surrogate) becomes ``?``."""
    with _atomic(path) as file:
        file.write(text.encode("utf-8", "replace"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON, atomically; NaN and infinity, which JSON lacks, become null.

    Raises:
        TypeError: If something in ``data`` has no form in JSON.
    """
    write_text(path, json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def write_png(path: Path, image: Image.Image) -> None:
    """Write a PNG, atomically."""
    with _atomic(path) as file:
        image.save(file, format="PNG")


def write_jpeg(path: Path, image: Image.Image) -> None:
    """Write a JPEG of quality 85, atomically."""
    with _atomic(path) as file:
        image.save(file, format="JPEG", quality=85)


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, atomically.

    Raises:
        MissingExtraError: If safetensors is not installed.
    """
    blob = require("safetensors.numpy").save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    with _atomic(path) as file:
        file.write(blob)


def save_result(result: DissectionResult, folder: Path) -> Path:
    """Write ``dissection.json``, and for each layer ``units_<layer>.csv`` and ``<layer>.safetensors``.

    The CSV has NetDissect's columns (:mod:`lightning_interp.report.table`). The JSON comes last: where it is,
    the folder is complete. Without safetensors the arrays are left out, with a warning.

    Returns:
        The path of the JSON file.
    """
    whole = available("safetensors")
    if not whole:
        warnings.warn(
            "safetensors is not installed, so results are saved without their arrays and cannot be loaded "
            "again; run: pip install 'lightning-interp[io]'",
            stacklevel=2,
        )
    folder = Path(folder)
    (folder / RESULT).unlink(missing_ok=True)
    for name, layer in result.layers.items():
        table = StringIO(newline="")
        write_unit_table(table, layer.rows, layer.categories)
        write_text(folder / f"units_{slug(name)}.csv", table.getvalue())
        if whole:
            write_safetensors(folder / f"{slug(name)}.safetensors", _arrays(layer))
    write_json(folder / RESULT, {"format": _FORMAT, "arrays": whole, **_document(result)})
    return folder / RESULT


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
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise DatasetError(f"{path}: format {document['format']!r}, expected {_FORMAT}")
        if not document["arrays"]:
            raise DatasetError(f"{path}: saved without its arrays, for safetensors was not installed")
        layers = [_load_layer(Path(folder), data) for data in document["layers"]]
        return DissectionResult(
            layers={layer.layer: layer for layer in layers},
            num_images=document["num_images"],
            settings=document["settings"],
            seconds=document["seconds"],
            meta=document["meta"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: not a saved result: {type(error).__name__}: {error}") from error


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


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read arrays by name.

    Raises:
        DatasetError: If the file is damaged.
        MissingExtraError: If safetensors is not installed.
    """
    library = require("safetensors")
    try:
        arrays: dict[str, NDArray[Any]] = require("safetensors.numpy").load_file(path)
    except library.SafetensorError as error:
        raise DatasetError(f"{path}: damaged: {error}") from error
    return arrays
