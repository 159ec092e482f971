"""The annotation tables of CelebA and CelebAMask-HQ, as text or as CSV, wherever the published layouts have them."""

import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_interp.data.readers.files import Files, Size
from lightning_interp.data.readers.group_csv import SPLITS, split_number
from lightning_interp.data.readers.tables import MAX_LINE, Line, checked_header, read_table
from lightning_interp.errors import DatasetError

# As torchvision has them, as Kaggle, group DRO and WILDS have them, and as the authors' download unpacks.
_FOLDERS = ("celeba", ".", "Anno", "Eval")
_IMAGE = "image_id"
_POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
_PARTITIONS = tuple(str(number) for number, _ in enumerate(SPLITS))
_VALUES = {"1": 1, "-1": 0, "0": 0}


def find_table(files: Files, stem: str) -> Path | None:
    """The table of that name, as text or CSV, if it is there."""
    for folder in _FOLDERS:
        for name in (f"{stem}.txt", f"{stem}.csv"):
            if os.path.lexists(files.root / folder / name):
                return files.root / files.locate(name, folder)
    return None


def require_table(files: Files, stem: str) -> Path:
    """The same, or an error.

    Raises:
        DatasetError: If it is not there.
    """
    if (path := find_table(files, stem)) is None:
        raise DatasetError(f"{files.root}: no {stem}.txt or {stem}.csv")
    return path


def _rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Line]:
    """The rows of a table in either form, with a plain file name under ``image_id``.

    Args:
        path: The table.
        columns: All columns of a text table that does not name them; those that a CSV has to have.
    """
    lines = read_table(path, (_IMAGE, *columns)) if path.suffix == ".csv" else _text_rows(path, columns)
    for line in lines:
        if Path(line.text(_IMAGE)).name != line.cells[_IMAGE]:
            raise line.error(_IMAGE, f"{line.cells[_IMAGE][:80]!r} is not the plain name of a file")
        yield line


def _text_rows(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    """The rows of a table of words between blanks; without ``columns``, a count and the names come first."""
    header = [_IMAGE, *columns] if columns else None
    for number, cells in _words(path):
        if header is None:
            # The count is skipped, not used: parts of the data keep the count of the whole.
            if len(cells) > 1 or not cells[0].lstrip("+-").isdigit():
                header = checked_header(path, number, [_IMAGE, *cells], ())
        elif len(cells) != len(header):
            raise DatasetError(f"{path}, line {number}: {len(cells)} cells under {len(header)} columns")
        else:
            yield Line(path, number, dict(zip(header, cells, strict=True)))


def _words(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and words of every line that has some."""
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(iter(lambda: handle.readline(MAX_LINE + 1), b""), start=1):
                if len(raw) > MAX_LINE:
                    raise DatasetError(f"{path}, line {number}: longer than {MAX_LINE} bytes")
                if words := raw.decode("utf-8-sig" if number == 1 else "utf-8").split():
                    yield number, words
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error


def read_split(files: Files, split: str) -> set[str]:
    """Names of CelebA's photos of a split."""
    wanted, members = str(split_number(split)), set()
    for line in _rows(require_table(files, "list_eval_partition"), ("partition",)):
        if line.cells["partition"] not in _PARTITIONS:
            raise line.error("partition", f"{line.cells['partition'][:80]!r} is not 0, 1 or 2")
        if line.cells["partition"] == wanted:
            members.add(line.cells[_IMAGE])
    return members


def read_attributes(path: Path, wanted: Container[str]) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Names of the attributes, and by photo a byte of 0 or 1 for each (a full CelebA has eight million)."""
    names: tuple[str, ...] = ()
    values: dict[str, bytes] = {}
    for line in _rows(path):
        # By name: column 36 is Wearing_Lipstick only while nobody adds or moves a column.
        names = names or tuple(name for name in line.cells if name != _IMAGE)
        if (image := line.cells[_IMAGE]) in values:
            raise line.error(_IMAGE, f"{image!r} stands twice")
        if image in wanted:
            values[image] = bytes(_value(line, name) for name in names)
    if not names:
        raise DatasetError(f"{path}: no row with an attribute")
    return names, values


def _value(line: Line, column: str) -> int:
    if (cell := line.cells[column].strip()) not in _VALUES:
        raise line.error(column, f"{cell[:80]!r} is not 1, -1 or 0")
    return _VALUES[cell]


def read_landmarks(path: Path, stored: Mapping[str, Size]) -> dict[str, Tensor]:
    """By photo, ``(5, 2)`` float32 in pixels of the stored photo."""
    landmarks: dict[str, Tensor] = {}
    for line in _rows(path):
        if (image := line.cells[_IMAGE]) in landmarks:
            raise line.error(_IMAGE, f"{image!r} stands twice")
        if image in stored:
            height, width = stored[image]
            points = [(_pixel(line, f"{p}_x", width), _pixel(line, f"{p}_y", height)) for p in _POINTS]
            landmarks[image] = torch.tensor(points, dtype=torch.float32)
    return landmarks


def _pixel(line: Line, column: str, side: int) -> float:
    """A coordinate, up to half a side outside for faces that the edge cuts; uncropped photos' lie further out."""
    if column not in line.cells:
        raise DatasetError(f"{line.path}: no column {column!r}")
    try:
        value = float(line.cells[column])
    except ValueError:
        value = math.nan
    if not -0.5 * side <= value <= 1.5 * side:
        raise line.error(column, f"{line.cells[column][:80]!r} is not in a photo of {side} pixels")
    return value


def read_mapping(path: Path) -> dict[str, str]:
    """By photo of CelebA-HQ, the name of the same photo in CelebA."""
    lines = _rows(path, ("orig_idx", "orig_file"))
    return {f"{line.cells[_IMAGE]}.jpg": line.cells["orig_file"] for line in lines if line.cells[_IMAGE] != "idx"}
