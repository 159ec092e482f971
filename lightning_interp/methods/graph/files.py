"""Files of explanatory graphs: written whole or not at all, read back exactly, without pickle."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.maths.export import to_graphml, to_node_link
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.patterns import Inference, LayerPatterns, PatternGraph, PatternLayer
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.results.files import read_safetensors, write_json, write_safetensors, write_text

GRAPH = GraphResult.FILE
_FORMAT = 1
_ARRAYS = re.compile(r"graph-[0-9a-f]{16}\.safetensors")
_BORDERS = ("hold", "zero")
_ROUNDING = 1e-5
_AGAIN = "save the graph again, or copy the folder whole"
_Form = tuple[torch.dtype, tuple[str, ...]]
# Type and shape of every array: V patterns, M parents, K pose numbers, C filters, N images.
_LAYER: Mapping[str, _Form] = {
    "filter": (torch.int64, ("V",)),
    "position": (torch.float64, ("V", "2")),
    "width": (torch.float64, ("V",)),
    "spread": (torch.float64, ("V",)),
    "score": (torch.float64, ("V",)),
    "parents": (torch.int64, ("V", "M")),
    "weight": (torch.float64, ("V", "M")),
    "sway": (torch.float64, ("V", "2", "K")),
    "scale": (torch.float64, ("C",)),
}
_IMAGES: Mapping[str, _Form] = {
    "images": (torch.int64, ("N",)),
    "mirrored": (torch.bool, ("N",)),
}
_PATTERNS: Mapping[str, _Form] = {
    "point": (torch.float32, ("N", "V", "2")),
    "score": (torch.float32, ("N", "V")),
    "expected": (torch.float32, ("N", "V", "2")),
}


def save_graph(graph: PatternGraph, folder: Path) -> Path:
    """Write ``graph-<digest>.safetensors``, and ``graph.json`` that names it.

    The JSON is replaced last and at once, and the arrays that an earlier one named are removed after that. So at any
    time there is a complete graph in the folder, the earlier or the new one.

    Returns:
        The path of the JSON file.

    Raises:
        DatasetError: If the graph is not one that could be read again: wrong shapes, NaN positions and the like.
        MissingExtraError: If safetensors is not installed.
        TypeError: If settings or meta hold something that has no form in JSON.
    """
    _check(graph)
    folder = Path(folder)
    arrays = {name: value.numpy() for name, value in _tensors(graph).items()}
    file = f"graph-{_digest(arrays)}.safetensors"
    document = {
        "format": _FORMAT,
        "arrays": file,
        "layers": [{"layer": layer.layer, "grid": asdict(layer.grid)} for layer in graph.layers],
        "image_size": graph.image_size,
        "edits": graph.edits,
        "settings": graph.settings,
        "seconds": graph.seconds,
        "meta": graph.meta,
    }
    write_safetensors(folder / file, arrays)
    write_json(folder / GRAPH, document)
    for old in folder.glob("graph-*.safetensors"):
        if _ARRAYS.fullmatch(old.name) and old.name != file:
            old.unlink()
    return folder / GRAPH


def load_graph(folder: Path) -> GraphResult:
    """Read what :func:`save_graph` wrote; every array and number is the same, bit for bit.

    Settings and meta come back as JSON has them: tuples as lists.

    Raises:
        DatasetError: If the folder holds no complete graph, or one that was changed or damaged.
        MissingExtraError: If safetensors is not installed.
    """
    path = Path(folder) / GRAPH
    if Path(folder).is_file():
        raise DatasetError(f"{folder}: a file; give the folder that it is in, {path.parents[1]}")
    if not path.exists():
        raise DatasetError(f"{path}: missing; nothing was saved to this folder, or the saving was interrupted")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise DatasetError(f"format {document['format']!r}, expected {_FORMAT}: another version wrote it")
        arrays = _read(path.parent, document["arrays"])
        graph = _graph(document, {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        _check(graph)
        # Only now, so that what was changed by hand is told by what is wrong with it.
        if document["arrays"] != f"graph-{_digest(arrays)}.safetensors":
            raise DatasetError(f"the arrays in {document['arrays']} were changed after they were saved")
        return graph
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}; {_AGAIN}") from error
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not a saved graph: {type(error).__name__}: {error}; {_AGAIN}") from error


def export_graph(graph: PatternGraph, path: Path) -> Path:
    """Write GraphML or node-link JSON, by the suffix of the path; both hold what ``to_networkx`` gives.

    Returns:
        The path.

    Raises:
        DatasetError: If the suffix is neither ``.graphml`` nor ``.json``.
        MissingExtraError: If it is ``.graphml`` and networkx is not installed.
    """
    path = Path(path)
    if path.suffix == ".graphml":
        write_text(path, to_graphml(graph))
    elif path.suffix == ".json":
        write_json(path, to_node_link(graph))
    else:
        raise DatasetError(f"{path}: unknown suffix {path.suffix!r}; graphs are exported as .graphml or .json")
    return path


def _tensors(graph: PatternGraph) -> dict[str, Tensor]:
    """Every array of the graph by name: that of its field, after the number of its layer."""
    found = {f"{row}.{key}": getattr(layer, key) for row, layer in enumerate(graph.layers) for key in _LAYER}
    if graph.learnt_from is not None:
        found |= {f"learnt_from.{key}": getattr(graph.learnt_from, key) for key in _IMAGES}
        for row, name in enumerate(graph.names):
            patterns = graph.learnt_from[name]
            found |= {f"learnt_from.{row}.{key}": getattr(patterns, key) for key in _PATTERNS}
    return found


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _read(folder: Path, file: str) -> dict[str, NDArray[Any]]:
    # Nothing but a name of this form: a path out of the document could lead anywhere.
    if not _ARRAYS.fullmatch(file):
        raise DatasetError(f"{file!r} is no name of a file of arrays")
    if not (folder / file).exists():
        raise DatasetError(f"its arrays, {file}, are missing")
    return read_safetensors(folder / file)


def _graph(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GraphResult:
    layers = tuple(
        PatternLayer(
            layer=str(data["layer"]),
            grid=Grid(*(Axis(**data["grid"][axis]) for axis in ("rows", "columns"))),
            **{key: tensors[f"{row}.{key}"] for key in _LAYER},
        )
        for row, data in enumerate(document["layers"])
    )
    learnt_from = None
    if "learnt_from.images" in tensors:
        patterns = {
            layer.layer: LayerPatterns(**{key: tensors[f"learnt_from.{row}.{key}"] for key in _PATTERNS})
            for row, layer in enumerate(layers)
        }
        learnt_from = Inference(**{key: tensors[f"learnt_from.{key}"] for key in _IMAGES}, layers=patterns)
    height, width = document["image_size"]
    meta = dict(document["meta"])
    if "evaluation" in meta:
        # JSON has no NaN: the figures that nothing was there for are null.
        meta["evaluation"] = {key: math.nan if each is None else each for key, each in meta["evaluation"].items()}
    return GraphResult(
        layers=layers,
        image_size=(int(height), int(width)),
        learnt_from=learnt_from,
        edits=tuple(tuple(edit) for edit in document["edits"]),
        settings=dict(document["settings"]),
        seconds=float(document["seconds"]),
        meta=meta,
    )


def _check(graph: PatternGraph) -> None:
    """Raise a ``DatasetError`` that names what is wrong, if the graph is not what its docstrings say."""
    if not graph.layers or len(set(graph.names)) < len(graph.layers):
        raise DatasetError(f"layers {list(graph.names)}; expected one or more, each once")
    if min(graph.image_size) < 1:
        raise DatasetError(f"image_size {graph.image_size}; expected a height and a width in pixels")
    above = 0
    for layer in graph.layers:
        where = f"layer {layer.layer!r}"
        _check_arrays(layer, _LAYER, {}, where)
        _check_range(layer.filter, 0, len(layer.scale), f"{where}, filter")
        _check_range(layer.parents, -1, above, f"{where}, parents")
        above = len(layer)
        _check_numbers(layer, where)
        for axis in (layer.grid.rows, layer.grid.columns):
            finite = math.isfinite(axis.first) and math.isfinite(axis.step)
            if not (finite and axis.length >= 1 and axis.size >= 1 and axis.step > 0 and axis.border in _BORDERS):
                raise DatasetError(f"{where}, grid: {axis}")
    if graph.learnt_from is not None:
        sizes: dict[str, int] = {}
        _check_arrays(graph.learnt_from, _IMAGES, sizes, "learnt_from")
        for layer in graph.layers:
            where = f"learnt_from, layer {layer.layer!r}"
            _check_arrays(graph.learnt_from[layer.layer], _PATTERNS, sizes | {"V": len(layer)}, where)
    if "options" not in graph.settings:
        raise DatasetError("settings: no 'options' that the graph was learnt with")
    try:
        GraphOptions(**graph.settings["options"])
    except (TypeError, ValueError) as error:
        raise DatasetError(f"settings, options: {error}") from error
    known = {name for layer in graph.layers for name in layer.names()}
    if unknown := sorted({name for edit in graph.edits for name in edit} - known):
        raise DatasetError(f"edits: unknown pattern {unknown[0]!r}")


def _check_arrays(holder: object, expected: Mapping[str, _Form], sizes: dict[str, int], where: str) -> None:
    """Types, shapes and finite values; a letter in a shape stands for one size, taken from where it occurs first."""
    for key, (dtype, shape) in expected.items():
        value: Tensor = getattr(holder, key)
        if value.ndim == len(shape):
            for size, own in zip(shape, value.shape, strict=True):
                sizes.setdefault(size, int(size) if size.isdigit() else own)
        want = tuple(sizes.get(size, size) for size in shape)
        if value.dtype != dtype or tuple(value.shape) != want:
            raise DatasetError(f"{where}, {key}: {value.dtype} of {tuple(value.shape)}, expected {dtype} of {want}")
        # A filter without patterns is divided by infinity.
        if value.isnan().any() or (key != "scale" and value.isinf().any()):
            raise DatasetError(f"{where}, {key}: holds NaN or infinity")


def _check_numbers(layer: PatternLayer, where: str) -> None:
    """Lengths and scales that can be divided by, and weights that are shares."""
    for key in ("width", "spread", "scale"):
        values: Tensor = getattr(layer, key)
        if (values <= 0).any():
            raise DatasetError(f"{where}, {key}: {values.min()}, expected above 0")
    silent = layer.filter[layer.scale[layer.filter].isinf()]
    if len(silent):
        raise DatasetError(f"{where}, scale: filter {silent[0]} has patterns, but is divided by infinity")
    there = layer.parents >= 0
    wrong = (layer.weight.sum(1) - there.any(1).double()).abs() > _ROUNDING
    wrong |= ((layer.weight < 0) | (~there & (layer.weight != 0))).any(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DatasetError(
            f"{where}, weight: {layer.names()[row]} has {layer.weight[row].tolist()}, expected shares of its parents "
            f"that sum to 1, and 0 where there is no parent"
        )


def _check_range(value: Tensor, low: int, end: int, where: str) -> None:
    if ((value < low) | (value >= end)).any():
        raise DatasetError(f"{where}: {value.min()} to {value.max()}, expected {low} to {end - 1}")
