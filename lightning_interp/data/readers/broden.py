"""Reader of the Broden format: tables, photos and label planes, as Network Dissection published them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.files import (
    MAX_NUMBER,
    MAX_PIXELS,
    PHOTO,
    RGB_MASK,
    Files,
    Kind,
    Normalize,
    PhotoSet,
    Size,
    nearest,
    number_table,
    translate,
)
from lightning_interp.data.readers.tables import DIGITS, read_table
from lightning_interp.errors import DatasetError

_FIXED_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")


class Broden(PhotoSet):
    """Broden on disk (``broden1_224`` and its like), or any set written in its format.

    The root holds ``index.csv``, ``label.csv``, ``category.csv``, one ``c_<category>.csv`` a category, and
    ``images/`` with photos and label planes (RGB PNG, number = R + 256 G). In a category's cell of the index,
    an item of digits is a number that holds for the whole image and anything else a label plane. Planes are
    handed on as they are, ``(P, h, w)`` int32 by category. The number 0, and numbers that no chosen category
    lists, are unlabelled.

    Args:
        root: The folder.
        categories: Categories to read; None for all of ``category.csv``. Images without an item in them are
            left out.
        split: Only images of this split, ``"train"`` or ``"val"`` in the published set; None for all.
        size: ``(H, W)`` to scale photos to (bilinear, antialiased); None if they all have one size already.
        mask_size: ``(h, w)`` to scale label planes to (nearest); None if they all have one size already.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every file that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Raises:
        DatasetError: On construction, if a table is malformed, a number is out of range or stands twice, a
            path is missing or leaves the root, or an image's header shows another size or kind than the index
            says, naming file, line and column. On access, if a file cannot be decoded or has an undeclared
            number.

    Reference:
        Bau et al., Network Dissection, CVPR 2017, section 2.1; ``src/joinseg.py`` of CSAILVision/NetDissect.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        categories: Sequence[str] | None = None,
        split: str | None = None,
        size: Size | None = None,
        mask_size: Size | None = None,
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        files = Files.below(root, max_pixels, verify)
        chosen = _chosen_categories(files.root / "category.csv", categories)
        names = _label_names(files.root / "label.csv")
        primary = _primary_categories(files.root, chosen, names)
        if categories is None and (missing := names.keys() - primary.keys()):
            raise DatasetError(f"{files.root / 'label.csv'}: label {min(missing)} is in no c_<category>.csv")
        index = files.root / "index.csv"
        rows = [
            _located(files, index, row)
            for row in _read_index(index, chosen, names)
            if (row.planes or row.numbers) and split in (None, row.split)
        ]
        if not rows:
            raise DatasetError(f"{index}: no image with a label of {list(chosen)}, split {split!r}")
        if size is None:
            _common_size(index, rows, [row.image_size for row in rows], "size")
        if mask_size is None:
            mask_size = _common_size(index, rows, [row.mask_size for row in rows], "mask_size")
        super().__init__(
            files,
            [row.image for row in rows],
            [Concept(number, names[number], primary[number]) for number in sorted(primary)],
            size=size,
            mask_size=mask_size,
            normalize=normalize,
        )
        self.split = split
        self._rows = rows
        self._table = number_table({number: number if number in primary else 0 for number in names})

    def labels(self, index: int) -> Labels:
        """Label planes, ``(P, h, w)`` int32 by category, and image-level numbers of image ``index``.

        Raises:
            DatasetError: If a plane cannot be decoded, has another size than the index says or a number that
                is not in ``label.csv``.
        """
        row = self._rows[index]
        planes: dict[str, list[Tensor]] = {}
        for category, name in row.planes:
            planes.setdefault(category, []).append(self._plane(name, row.mask_size))
        numbers: dict[str, list[int]] = {}
        for category, number in row.numbers:
            if self._table[number]:
                numbers.setdefault(category, []).append(number)
        return Labels({category: torch.stack(own) for category, own in planes.items()}, numbers)

    def describe(self) -> dict[str, Any]:
        """What identifies the set, the split included."""
        return super().describe() | {"split": self.split}

    def _plane(self, name: str, size: Size) -> Tensor:
        path = self.files.root / name
        rgb = self.files.mask(name, RGB_MASK, size)
        if rgb[..., 2].any():
            raise DatasetError(f"{path}: blue is not 0 everywhere, so this is no Broden label plane")
        # The channels are int32 by now: 256 * G would overflow the stored bytes.
        numbers = translate(rgb[..., 0] + 256 * rgb[..., 1], self._table, path)
        return torch.from_numpy(nearest(numbers, self.mask_size))


@dataclass(frozen=True)
class _Row:
    """One image of the index. Pairs, not dictionaries: a full Broden has 63,305 of these in memory."""

    line: int
    image: str
    split: str
    image_size: Size
    mask_size: Size
    planes: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[str, int], ...]


def _chosen_categories(path: Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The categories to read, in the order of ``category.csv``, which decides ties of coverage."""
    lines: dict[str, int] = {}
    for line in read_table(path, ("name",)):
        name = line.text("name")
        if name in lines or name in _FIXED_COLUMNS or re.search(r"[/\\\0]", name):
            raise line.error("name", f"category {name!r} stands twice or is no fit name")
        lines[name] = line.number
    if unknown := [name for name in wanted or () if name not in lines]:
        raise DatasetError(f"{path}: no category {unknown}; it has {list(lines)}")
    chosen = tuple(name for name in lines if wanted is None or name in wanted)
    if not chosen:
        raise DatasetError(f"{path}: no category to read")
    return chosen


def _label_names(path: Path) -> dict[int, str]:
    """Name by label number; numbers may have gaps."""
    names: dict[int, str] = {}
    for line in read_table(path, ("number", "name")):
        number = line.integer("number", MAX_NUMBER)
        if number in names:
            raise line.error("number", f"label {number} stands twice")
        names[number] = line.text("name")
    return names


def _primary_categories(root: Path, categories: Sequence[str], names: Mapping[int, str]) -> dict[int, str]:
    """By label number, the category with the largest coverage; of equals the later category."""
    best: dict[int, tuple[float, str]] = {}
    for category in categories:
        seen: set[int] = set()
        for line in read_table(root / f"c_{category}.csv", ("number", "coverage")):
            number, coverage = line.integer("number", MAX_NUMBER), line.coverage()
            if number in seen or number not in names:
                raise line.error("number", f"label {number} stands twice or is not in label.csv")
            seen.add(number)
            if number not in best or coverage >= best[number][0]:
                best[number] = coverage, category
    return {number: category for number, (_, category) in best.items()}


def _read_index(path: Path, categories: Sequence[str], names: Mapping[int, str]) -> Iterator[_Row]:
    seen: dict[str, int] = {}
    for line in read_table(path, (*_FIXED_COLUMNS, *categories)):
        image = line.text("image")
        if image in seen:
            raise line.error("image", f"{image!r} stands on line {seen[image]} already")
        seen[image] = line.number
        items = [(c, item) for c in categories for item in line.cells[c].split(";") if item]
        numbers = [(c, item) for c, item in items if DIGITS.fullmatch(item)]
        for category, item in numbers:
            if len(item) > 9 or (int(item) and int(item) not in names):
                raise line.error(category, f"label {item[:80]} is not in label.csv")
        yield _Row(
            line=line.number,
            image=image,
            split=line.cells["split"],
            image_size=(line.integer("ih", MAX_NUMBER), line.integer("iw", MAX_NUMBER)),
            mask_size=(line.integer("sh", MAX_NUMBER), line.integer("sw", MAX_NUMBER)),
            planes=tuple((c, item) for c, item in items if not DIGITS.fullmatch(item)),
            numbers=tuple((c, int(item)) for c, item in numbers if int(item)),
        )


def _located(files: Files, index: Path, row: _Row) -> _Row:
    """The row with paths relative to the root, after their headers were seen to be what the index says."""

    def check(column: str, item: str, kind: Kind, size: Size) -> str:
        try:
            name = files.locate(item, "images")
            files.check_size(name, kind, size)
        except DatasetError as error:
            raise DatasetError(f"{index}, line {row.line}, column {column!r}: {error}") from error
        return name

    height, width = row.mask_size
    if (labels := len(row.planes) * height * width) > files.max_pixels:
        message = f"{labels} pixels of label planes, more than max_pixels={files.max_pixels}"
        raise DatasetError(f"{index}, line {row.line}: {message}")
    return replace(
        row,
        image=check("image", row.image, PHOTO, row.image_size),
        planes=tuple((c, check(c, item, RGB_MASK, row.mask_size)) for c, item in row.planes),
    )


def _common_size(index: Path, rows: Sequence[_Row], sizes: Sequence[Size], option: str) -> Size:
    """The one size that all rows have."""
    for row, size in zip(rows, sizes, strict=True):
        if size != sizes[0]:
            message = f"{size} (h, w) where earlier rows have {sizes[0]}; give {option}= to scale them"
            raise DatasetError(f"{index}, line {row.line}: {message}")
    return sizes[0]
