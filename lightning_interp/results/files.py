"""Files of results: written whole or not at all, read back exactly, without pickle."""

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_interp._extras import available, require
from lightning_interp.errors import DatasetError


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


def write_result(
    folder: str | Path,
    file: str,
    document: Mapping[str, Any],
    *,
    texts: Mapping[str, str],
    arrays: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
) -> Path:
    """Write a result to a folder: texts and arrays by file name, then the document. Where that is, all is there.

    Without safetensors the arrays are left out, with a warning; the document says under ``arrays`` whether they are
    there.

    Returns:
        The path of the document.
    """
    folder = Path(folder)
    whole = arrays is None or available("safetensors")
    if not whole:
        warnings.warn(
            "safetensors is not installed, so results are saved without their arrays and cannot be loaded "
            "again; run: pip install 'lightning-interp[io]'",
            stacklevel=3,
        )
    (folder / file).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, values in (arrays or {}).items() if whole else ():
        write_safetensors(folder / name, values)
    write_json(folder / file, document if arrays is None else {**document, "arrays": whole})
    return folder / file


@contextmanager
def reading(path: Path, what: str = "a saved result") -> Iterator[None]:
    """Tell of whatever is wrong with a file as a ``DatasetError`` that names it."""
    try:
        yield
    except DatasetError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not {what}: {type(error).__name__}: {error}") from error


def read_document(path: Path, form: int) -> dict[str, Any]:
    """Read what :func:`write_result` wrote as the document.

    Raises:
        DatasetError: If it is of another form, or was saved without its arrays.
    """
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document["format"] != form:
        raise DatasetError(f"{path}: format {document['format']!r}, expected {form}")
    if not document["arrays"]:
        raise DatasetError(f"{path}: saved without its arrays, for safetensors was not installed")
    return document


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
