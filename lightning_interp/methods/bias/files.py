"""Files of context-bias diagnostics: written whole or not at all, checked when read."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, fields
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from lightning_interp.errors import DatasetError
from lightning_interp.methods.bias.result import BiasResult, Finding, Floats, Relations, Score
from lightning_interp.results.files import write_result

BIAS = BiasResult.FILE
_FORMAT = 1
_KINDS = ("failure mode", "blind spot")
_MATRICES = ("mean", "deviation", "labels", "predictions", "kl", "entropy")


def save_bias(result: BiasResult, folder: Path) -> Path:
    """Write ``bias.json`` and ``scores.csv``, atomically; the JSON comes last: where it is, the folder is complete.

    NaN and infinity become null in the JSON and empty cells in the table, whose columns are ``name`` and the fields
    of a score. Pictures are left out.

    Returns:
        The path of the JSON file.
    """
    relations = result.relations
    document = {
        "format": _FORMAT,
        "target": result.target,
        "region": result.region,
        "contexts": result.contexts,
        "scores": {name: asdict(score) for name, score in result.scores.items()},
        "signal": result.signal,
        "ungated": result.ungated,
        "relations": None if relations is None else _relations_document(relations),
        "missing": result.missing,
        "num_images": result.num_images,
        "settings": result.settings,
        "seconds": result.seconds,
        "meta": result.meta,
    }
    return write_result(folder, BIAS, document, texts={"scores.csv": _score_csv(result.scores)})


def _score_csv(scores: Mapping[str, Score]) -> str:
    table = StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["name", *(field.name for field in fields(Score))])
    for name, score in scores.items():
        writer.writerow([name, *(value if math.isfinite(value) else "" for value in astuple(score))])
    return table.getvalue()


def _relations_document(relations: Relations) -> dict[str, Any]:
    matrices = {name: getattr(relations, name).tolist() for name in (*_MATRICES, "expected")}
    return {"names": relations.names, **matrices, "findings": [asdict(finding) for finding in relations.findings]}


def load_bias(folder: Path) -> BiasResult:
    """Read what :func:`save_bias` wrote: the same numbers, bit for bit, without the pictures.

    Null comes back as NaN, also where an infinity was; settings and meta as JSON has them: tuples as lists.

    Raises:
        DatasetError: If the folder holds no such file or one that is damaged; the message names the file and what is
            wrong.
    """
    path = Path(folder) / BIAS
    try:
        return _result(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, OverflowError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DatasetError(f"{path}: not saved bias diagnostics: {what}") from error


def _result(document: Any) -> BiasResult:
    if _typed(document, dict, "the document")["format"] != _FORMAT:
        raise ValueError(f"format {document['format']!r}, expected {_FORMAT}")
    relations, ungated = document["relations"], _typed(document["ungated"], dict, "ungated")
    return BiasResult(
        target=_typed(document["target"], str, "target"),
        region=_typed(document["region"], str, "region"),
        contexts=_by_name(document["contexts"], str, "contexts"),
        scores={name: _score(data, name) for name, data in _by_name(document["scores"], dict, "scores").items()},
        signal=_by_name(document["signal"], bool, "signal"),
        ungated={name: _number(value, f"ungated {name!r}") for name, value in ungated.items()},
        relations=None if relations is None else _relations(_typed(relations, dict, "relations")),
        missing=_by_name(document["missing"], str, "missing"),
        num_images=_typed(document["num_images"], int, "num_images"),
        settings=_typed(document["settings"], dict, "settings"),
        seconds=_number(document["seconds"], "seconds"),
        meta=_typed(document["meta"], dict, "meta"),
    )


def _score(data: Mapping[str, Any], name: str) -> Score:
    numbers = {key: _number(data[key], f"{key} of score {name!r}") for key in ("value", "low", "high", "chance")}
    return Score(**numbers, count=_typed(data["count"], int, f"count of score {name!r}"))


def _relations(data: Mapping[str, Any]) -> Relations:
    names = tuple(_typed(name, str, "a name of relations") for name in _typed(data["names"], list, "names"))
    expected = _matrix(data["expected"], len(names), "expected")
    if not np.isin(expected, (-1, 0, 1)).all():
        raise ValueError("expected holds something other than -1, 0 and 1")
    return Relations(
        names=names,
        **{key: _matrix(data[key], len(names), key) for key in _MATRICES},
        expected=expected.astype(np.int64),
        findings=tuple(_finding(f, names) for f in _typed(data["findings"], list, "findings")),
    )


def _finding(data: Any, names: tuple[str, ...]) -> Finding:
    kind, first, second = (_typed(data, dict, "a finding")[key] for key in ("kind", "first", "second"))
    if kind not in _KINDS or first not in names or second not in names:
        raise ValueError(f"a finding is {kind!r} of {first!r} and {second!r}")
    if data["expected"] not in (-1, 0, 1):
        raise ValueError(f"a finding expects {data['expected']!r}")
    numbers = {key: _number(data[key], f"{key} of a finding") for key in ("mean", "kl")}
    return Finding(kind, first, second, numbers["mean"], int(data["expected"]), numbers["kl"])


def _matrix(rows: Any, size: int, name: str) -> Floats:
    """``(size, size)`` float64."""
    lists = [_typed(row, list, f"a row of {name}") for row in _typed(rows, list, name)]
    if [len(row) for row in lists] != [size] * size:
        raise ValueError(f"{name} is not {size} x {size}, as there are names")
    numbers = [_number(value, f"a value of {name}") for row in lists for value in row]
    return np.array(numbers, dtype=np.float64).reshape(size, size)


def _number(value: Any, name: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, not a number")
    return float(value)


def _by_name(data: Any, kind: type, name: str) -> dict[str, Any]:
    return {key: _typed(value, kind, f"{name}: {key!r}") for key, value in _typed(data, dict, name).items()}


def _typed(value: Any, kind: type, name: str) -> Any:
    # True is an int to Python, not to a reader of the file.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} is {value!r:.80}, not of type {kind.__name__}")
    return value
