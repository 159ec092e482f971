"""Tables of probe sets, read line by line with errors that name file, line and column."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_interp.errors import DatasetError

MAX_LINE = 2**20
"""Bytes of the longest line that is read."""

DIGITS = re.compile(r"[0-9]+")
"""ASCII digits only: int() alone takes other scripts' too."""


@dataclass(frozen=True)
class Line:
    """One row of a table, with what its errors have to name.

    Args:
        path: The file.
        number: Of the line, from 1.
        cells: By column.
    """

    path: Path
    number: int
    cells: Mapping[str, str]

    def error(self, column: str, message: str) -> DatasetError:
        """The error to raise for a cell, naming file, line and column."""
        return DatasetError(f"{self.path}, line {self.number}, column {column!r}: {message}")

    def text(self, column: str) -> str:
        """A cell that must not be empty."""
        if not (text := self.cells[column]).strip():
            raise self.error(column, "empty")
        return text

    def integer(self, column: str, highest: int) -> int:
        """A cell that must be a whole number in 1...highest."""
        text = self.cells[column]
        # int() alone takes signs, underscores and other scripts' digits, and fails its own way at 5,000.
        if not DIGITS.fullmatch(text) or len(text) > 9 or not 1 <= int(text) <= highest:
            raise self.error(column, f"{text[:80]!r} is not a whole number in 1...{highest}")
        return int(text)

    def coverage(self) -> float:
        """The cell "coverage", a finite number from 0."""
        text = self.cells["coverage"]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise self.error("coverage", f"{text[:80]!r} is not a finite number from 0")
        return value


def read_table(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    """The rows of a CSV file with a header that has at least ``columns``; empty lines are skipped.

    Each line is parsed by itself, so that an open quote neither swallows the rest of the file nor shifts the
    line numbers of errors, and a line of any length costs bounded memory.
    """
    header: list[str] | None = None
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(iter(lambda: handle.readline(MAX_LINE + 1), b""), start=1):
                cells = _split_line(path, number, raw)
                if not cells:
                    continue
                if header is None:
                    header = checked_header(path, number, cells, columns)
                elif len(cells) != len(header):
                    raise DatasetError(f"{path}, line {number}: {len(cells)} cells under {len(header)} columns")
                else:
                    yield Line(path, number, dict(zip(header, cells, strict=True)))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    if header is None:
        raise DatasetError(f"{path}, line 1: no header row")


def _split_line(path: Path, number: int, raw: bytes) -> list[str]:
    if len(raw) > MAX_LINE:
        raise DatasetError(f"{path}, line {number}: longer than {MAX_LINE} bytes")
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        return next(csv.reader([text], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}, line {number}: {error}") from error


def checked_header(path: Path, number: int, header: list[str], columns: Sequence[str]) -> list[str]:
    """The header of a table, if it has every column once and lacks none of ``columns``."""
    if len(set(header)) < len(header):
        raise DatasetError(f"{path}, line {number}: a column stands twice in the header {header}")
    if missing := [column for column in columns if column not in header]:
        raise DatasetError(f"{path}, line {number}: the header lacks {missing}")
    return header
