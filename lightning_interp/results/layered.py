"""The common saved form of results by layer: JSON, and by layer the arrays and a table."""

import csv
import math
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch

from lightning_interp.results.files import read_document, read_safetensors, reading, slug, write_result

_FORMAT = 1


def save_layered(result: Any, folder: str | Path) -> Path:
    """Write a result whose layers are dataclasses of arrays, tensors and plain values.

    Args:
        result: A :class:`~lightning_interp.results.base.LayeredResult` that is a dataclass, with ``LAYER``.
        folder: Where to.

    Returns:
        The path of its ``FILE``.
    """
    own = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "layers"}
    plain, arrays, texts = {}, {}, {}
    for name, layer in result.layers.items():
        held = {field.name: getattr(layer, field.name) for field in fields(layer)}
        apart = {key: value for key, value in held.items() if isinstance(value, np.ndarray | torch.Tensor)}
        plain[name] = {
            "tensors": [key for key, value in apart.items() if isinstance(value, torch.Tensor)],
            "shapes": {key: list(value.shape) for key, value in apart.items()},
            "fields": {key: value for key, value in held.items() if key not in apart},
        }
        arrays[f"{slug(name)}.safetensors"] = {key: np.asarray(value) for key, value in apart.items()}
        if rows := result.rows(layer):
            table = StringIO(newline="")
            csv.writer(table, lineterminator="\n").writerows(rows)
            texts[f"units_{slug(name)}.csv"] = table.getvalue()
    document = {"format": _FORMAT, **own, "scalars": result.scalars(), "layers": plain}
    return write_result(folder, result.FILE, document, texts=texts, arrays=arrays)


def load_layered(kind: Any, folder: str | Path) -> Any:
    """Read what :func:`save_layered` wrote; every array and number is the same, bit for bit.

    Lists in JSON come back as tuples where a layer holds them, and as lists in settings and meta.

    Raises:
        DatasetError: If the folder holds no complete result, or one saved without its arrays.
    """
    path = Path(folder) / kind.FILE
    with reading(path):
        document = read_document(path, _FORMAT)
        own = {field.name: document[field.name] for field in fields(kind) if field.name != "layers"}
        layers = {name: _layer(kind.LAYER, Path(folder), name, data) for name, data in document["layers"].items()}
        return kind(layers=layers, **own)


def _layer(kind: Any, folder: Path, name: str, data: Any) -> Any:
    # The file's name follows from the layer's; a path out of the document could lead anywhere.
    arrays = read_safetensors(folder / f"{slug(name)}.safetensors")
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for key, shape in data["shapes"].items():
        array = np.array(arrays[key]).reshape(shape)
        found[key] = torch.from_numpy(array) if key in data["tensors"] else array
    for key, value in data["fields"].items():
        if value is None and hints[key] is float:  # JSON has no NaN.
            value = math.nan
        found[key] = tuple(value) if isinstance(value, list) else value
    return kind(**found)
