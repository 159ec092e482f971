"""Reader of photos with a label and a context in one CSV file, as Waterbirds and WILDS publish them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.files import MAX_PIXELS, Files, Kind, Normalize, Size
from lightning_interp.data.readers.tables import Line, read_table
from lightning_interp.data.readers.transform import Crop, JointPhotoSet
from lightning_interp.errors import DatasetError

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""Splits in the order of their numbers in the published files."""

_MASK = Kind("a mask (PNG)", ("PNG",), ("1", "L", "LA", "P", "I", "I;16", "RGB", "RGBA"))
_MAX_CLASS = 9999
FOREGROUND = Concept(1, "foreground", "object")


@dataclass(frozen=True)
class _Row:
    """One row of the file: its line for messages, image, split number, label and context."""

    line: Line
    image: str
    split: int
    label: int
    context: int


class GroupCSV(JointPhotoSet):
    """Photos with a label y and a context c in ``metadata.csv``: Waterbirds, and any set written like it.

    ::

        metadata.csv             img_filename,y,split,place (further columns are ignored)
        <img_filename>           the photo, relative to the root
        <masks>/<stem>.png       the same path below the masks folder: the object's mask

    Labels and contexts are whole numbers from 0, splits 0 (train), 1 (val) and 2 (test). The group of a photo is
    ``y * num_contexts + c``, in Waterbirds ``2 y + c``, with numbers taken from the whole file so that they are the
    same in every split. ``facts(i)["attributes"]`` is ``{"y": ..., "place": ...}``, by the names of the columns.

    As concepts each label and each context is one that holds for the whole photo, ``"y=1"`` of category ``"y"``;
    with masks comes the object ``"foreground"``: grey above half of the file's largest value, which takes masks of
    0 and 1, of 0 and 255, and CUB-200-2011's shares of annotators alike.

    Args:
        root: The folder.
        metadata: The CSV file, relative to the root.
        image_column: Column of the photos.
        label_column: Column of y.
        context_column: Column of c.
        split_column: Column of the splits.
        split: Only photos of this split; None for all. Only those have to be there.
        masks: Folder of the masks, relative to the root; None without.
        crop: What is kept around each photo's centre, ``(h, w)`` in its pixels or a share of each side; Waterbirds'
            usual scaling to 256 and crop to 224 pixels is ``crop=0.875``.
        size: ``(H, W)`` that photos are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` that masks are scaled to (nearest).
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every image that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Attributes:
        groups: ``(N,)`` int64, the group of each photo.
        num_contexts: Number of contexts C.
        training_shares: ``(Y, C)`` float64, share of each group among the training rows of the file, whatever the
            split that was asked for; NaN if the file has none.

    Raises:
        DatasetError: On construction, if the table lacks a column, a row has another number of cells, a number is
            malformed, a photo stands twice, or a photo or mask is missing, unreadable or leaves the root, naming
            file and line. On access, if an image cannot be decoded.

    Reference:
        Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020 (Waterbirds and the
        file's form); Koh et al., WILDS, ICML 2021.
    """

    def __init__(
        self,
        root: str | Path,
        metadata: str = "metadata.csv",
        *,
        image_column: str = "img_filename",
        label_column: str = "y",
        context_column: str = "place",
        split_column: str = "split",
        split: Split | None = None,
        masks: str | None = None,
        crop: Crop = None,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        files = Files.below(root, max_pixels, verify)
        self.columns = (image_column, label_column, context_column, split_column)
        everything = _read_rows(files.root / files.locate(metadata), self.columns)
        number = split and split_number(split)
        rows = [row for row in everything if number in (None, row.split)]
        if not rows:
            raise DatasetError(f"{files.root / metadata}: no row of split {split!r}")
        super().__init__(
            files,
            [_located(files, row, row.image, ".") for row in rows],
            _concepts(everything, label_column, context_column, masks is not None),
            crop=crop,
            size=size,
            mask_size=mask_size,
            normalize=normalize,
        )
        self.split = split
        self._masks = None if masks is None else self._mask_names(rows, masks)
        self._values = [(row.label, row.context) for row in rows]
        self._numbers = {(concept.category, concept.name): concept.number for concept in self.concepts}
        self.num_contexts = 1 + max(row.context for row in everything)
        self.groups = self._groups(rows)
        num_labels = 1 + max(row.label for row in everything)
        training = self._groups([row for row in everything if row.split == 0])
        counts = training.bincount(minlength=num_labels * self.num_contexts).double()
        self.training_shares = (counts / counts.sum()).view(num_labels, self.num_contexts)

    def _groups(self, rows: Sequence[_Row]) -> Tensor:
        return torch.tensor([row.label * self.num_contexts + row.context for row in rows], dtype=torch.int64)

    def _mask_names(self, rows: Sequence[_Row], folder: str) -> list[str]:
        """The masks of the photos, after their headers were seen to fit them."""
        names = [_located(self.files, row, str(PurePosixPath(row.image).with_suffix(".png")), folder) for row in rows]
        for name, stored in zip(names, self.stored_sizes, strict=True):
            self.files.check_size(name, _MASK, stored)
        return names

    def labels(self, index: int) -> Labels:
        """Label and context of image ``index`` as image-level labels, and the mask's plane, ``(h, w)`` int32.

        Raises:
            DatasetError: If the mask cannot be decoded.
        """
        image = {name: (self._numbers[name, f"{name}={value}"],) for name, value in self._named(index).items()}
        if self._masks is None:
            return Labels(image=image)
        name = self._masks[index]
        grey = self.files.mask(name, _MASK, self.stored_sizes[index])
        grey = grey if grey.ndim == 2 else grey[..., 0]
        plane = torch.from_numpy((2 * grey > grey.max()).astype(np.int32) * FOREGROUND.number)
        return Labels({FOREGROUND.category: self.plane(plane, index)}, image)

    def facts(self, index: int) -> Mapping[str, Any]:
        """``"attributes"``: label and context by the names of their columns."""
        return {"attributes": self._named(index)}

    def _named(self, index: int) -> dict[str, int]:
        return dict(zip(self.columns[1:3], self._values[index], strict=True))

    def describe(self) -> dict[str, Any]:
        """What identifies the set, split and columns included."""
        return super().describe() | {"split": self.split, "columns": list(self.columns)}


def split_number(split: str) -> int:
    """The number of a split in the published files.

    Raises:
        DatasetError: If it is none of :data:`SPLITS`.
    """
    if split not in SPLITS:
        raise DatasetError(f"split={split!r} is none of {', '.join(SPLITS)}")
    return SPLITS.index(split)


def _read_rows(path: Path, columns: tuple[str, str, str, str]) -> list[_Row]:
    """All rows of the file, checked."""
    if len(set(columns)) < len(columns):
        raise DatasetError(f"{path}: image, label, context and split need four columns, not {list(columns)}")
    image_column, label_column, context_column, split_column = columns
    rows: dict[str, _Row] = {}
    for line in read_table(path, columns):
        image = line.text(image_column)
        if image in rows:
            raise line.error(image_column, f"{image!r} stands on line {rows[image].line.number} already")
        rows[image] = _Row(
            line,
            image,
            split=_number(line, split_column, len(SPLITS) - 1),
            label=_number(line, label_column, _MAX_CLASS),
            context=_number(line, context_column, _MAX_CLASS),
        )
    return list(rows.values())


def _number(line: Line, column: str, highest: int) -> int:
    text = line.cells[column]
    # int() alone takes signs, blanks, underscores and other scripts' digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= highest):
        raise line.error(column, f"{text[:80]!r} is not a whole number in 0...{highest}")
    return int(text)


def _concepts(rows: Sequence[_Row], label_column: str, context_column: str, masked: bool) -> list[Concept]:
    """The foreground if there are masks, then every label and context that occurs in the file."""
    named = [(label_column, value) for value in sorted({row.label for row in rows})]
    named += [(context_column, value) for value in sorted({row.context for row in rows})]
    values = [
        Concept(number, f"{column}={value}", column)
        for number, (column, value) in enumerate(named, start=FOREGROUND.number + 1)
    ]
    return [FOREGROUND, *values] if masked else values


def _located(files: Files, row: _Row, name: str, folder: str) -> str:
    """The row's photo or mask relative to the root."""
    try:
        return files.locate(name, folder)
    except DatasetError as error:
        raise DatasetError(f"{row.line.path}, line {row.line.number}: {error}") from error
