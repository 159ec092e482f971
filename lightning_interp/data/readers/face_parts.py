"""Reader of faces with part masks, landmarks and attributes: two folders and a CSV file."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.files import (
    INDEX_MASK,
    MAX_NUMBER,
    MAX_PIXELS,
    Files,
    Normalize,
    Size,
    number_table,
    read_json,
    translate,
)
from lightning_interp.data.readers.folder import read_classes
from lightning_interp.data.readers.tables import Line, read_table
from lightning_interp.data.readers.transform import Crop, JointPhotoSet
from lightning_interp.errors import DatasetError, check_names

_POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
LANDMARKS = tuple(f"{point}_{axis}" for point in _POINTS for axis in "xy")
"""Columns of the five landmarks, by CelebA's names and in its order."""

_DIGITS = re.compile(r"[0-9]{1,9}")
_SIDES = {"l_": "r_", "left_": "right_"}
_META_CLASSES = "mask_classes"


@dataclass(frozen=True)
class _Face:
    """One row of the table: files relative to the root, five points or none, attributes that are known."""

    line: Line
    image: str
    mask: str
    landmarks: Tensor | None
    attributes: Mapping[str, int]


class FacesWithParts(JointPhotoSet):
    """Photos of faces with a mask of their parts each, in a folder of this form.

    ::

        images/NAME.jpg     the photos
        masks/NAME.png      grey or palette PNGs of the photo's size, the stored value is the part
        faces.csv           image[,mask][,lefteye_x,lefteye_y,...][,further columns]
        classes.json        what the values mean; or meta.json; or the argument ``classes``

    Rows of the table are the photos, in its order. ``mask`` is the photo's name with ``.png`` where there is no such
    column. The ten landmark columns have CelebA's names, in pixels of the photo, left being left in the picture; a row
    may leave all ten empty. Further columns whose every cell is a whole number or empty are attributes; an empty cell
    is unknown.

    Names of parts: a list by stored value in ``meta.json`` under ``"mask_classes"`` (what 0 means is unlabelled), or
    ``classes.json`` as :class:`~lightning_interp.data.readers.folder.SegmentationFolder` has it. Parts of both sides,
    such as ``l_eye`` and ``r_eye``, become one, ``eye``: who annotates does not agree on whose left it is (in a sample
    of CelebAMask-HQ 66 of 964 images have it the other way round). ``l_lip``, the lower lip, has no ``r_lip`` and
    stays.

    Args:
        root: The folder.
        table: The CSV file, relative to the root.
        classes: Names of the parts by stored value, the first for 0; None for those of the files.
        attributes: By name of an attribute, a numeric column and a threshold: 1 above it, else 0.
        crop: What is kept around each photo's centre, ``(h, w)`` in its pixels or a share of each side.
        size: ``(H, W)`` that photos are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` that masks are scaled to (nearest); None for ``size``.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every image that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Raises:
        DatasetError: On construction, if a file is missing, malformed, of the wrong kind or size, or leaves the root,
            a photo stands twice, a number is malformed or a landmark outside its photo, naming file and line. On
            access, if an image cannot be decoded or a mask has a value that is no part.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        table: str = "faces.csv",
        classes: Sequence[str] | None = None,
        attributes: Mapping[str, tuple[str, float]] | None = None,
        crop: Crop = None,
        size: Size = (128, 128),
        mask_size: Size | None = None,
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        files = Files.below(root, max_pixels, verify)
        stored, unlabelled = _classes(files.root, classes)
        concepts, numbers = _without_sides(stored)
        self.table, self.thresholds = table, dict(attributes or {})
        self._faces = _read_faces(files, table, self.thresholds)
        super().__init__(
            files,
            [face.image for face in self._faces],
            concepts,
            crop=crop,
            size=size,
            mask_size=size if mask_size is None else mask_size,
            normalize=normalize,
        )
        self._table = number_table(numbers | {unlabelled: 0})
        self._members = {
            category: torch.tensor([c.number for c in concepts if c.category == category])
            for category in self.categories
        }
        for face, photo in zip(self._faces, self.stored_sizes, strict=True):
            _check_face(files, face, photo)

    def labels(self, index: int) -> Labels:
        """By category, a plane ``(h, w)`` int32 of the parts in it: one, ``"part"``, unless ``classes.json`` has more.

        Raises:
            DatasetError: If the mask cannot be decoded or has a value that is no part.
        """
        name = self._faces[index].mask
        stored = self.files.mask(name, INDEX_MASK, self.stored_sizes[index])
        plane = self.plane(torch.from_numpy(translate(stored, self._table, self.files.root / name)), index)
        return Labels({c: plane * torch.isin(plane, own) for c, own in self._members.items()})

    def facts(self, index: int) -> Mapping[str, Any]:
        """``"attributes"``: name to whole number, unknown ones absent; ``"landmarks"``: ``(5, 2)`` float32 if known."""
        face = self._faces[index]
        facts: dict[str, Any] = {"attributes": dict(face.attributes)}
        if face.landmarks is not None:
            facts["landmarks"] = self.transform.landmarks(face.landmarks, self.stored_sizes[index])
        return facts

    def describe(self) -> dict[str, Any]:
        """What identifies the set, the table and the thresholds included."""
        return super().describe() | {"table": self.table, "thresholds": self.thresholds}


def _classes(root: Path, given: Sequence[str] | None) -> tuple[tuple[Concept, ...], int]:
    """Every part as it is stored, and the value that means unlabelled."""
    if given is None and (root / "classes.json").exists():
        return read_classes(root / "classes.json")
    where, names = "classes", given
    if given is None:
        where, content = f"{root / 'meta.json'}, {_META_CLASSES!r}", read_json(root / "meta.json")
        names = content.get(_META_CLASSES) if isinstance(content, dict) else None
    if not isinstance(names, list | tuple) or not 1 < len(names) <= MAX_NUMBER:
        raise DatasetError(f"{where}: expected a list of names by stored value, the first for 0")
    if wrong := [n for n in names if not isinstance(n, str) or not n.strip() or names.count(n) > 1]:
        raise DatasetError(f"{where}: {str(wrong[0])[:80]!r} is no name or stands twice")
    return tuple(Concept(number, name, "part") for number, name in enumerate(names) if number), 0


def _without_sides(stored: Sequence[Concept]) -> tuple[tuple[Concept, ...], dict[int, int]]:
    """The concepts with left and right joined, and the number of each stored value."""
    names = {concept.name for concept in stored}
    whole: dict[str, str] = {}
    for left, right in _SIDES.items():
        for name in (n.removeprefix(left) for n in names if n.startswith(left)):
            if right + name in names:
                whole |= {left + name: name, right + name: name}
    joined: dict[tuple[str, str], Concept] = {}
    numbers = {}
    for concept in stored:
        name = whole.get(concept.name, concept.name)
        first = joined.setdefault((name, concept.category), Concept(concept.number, name, concept.category))
        numbers[concept.number] = first.number
    return tuple(joined.values()), numbers


def _read_faces(files: Files, table: str, thresholds: Mapping[str, tuple[str, float]]) -> list[_Face]:
    path = files.root / files.locate(table)
    lines = list(read_table(path, ("image",)))
    if not lines:
        raise DatasetError(f"{path}: no face")
    columns = tuple(lines[0].cells)
    if 0 < len(missing := [column for column in LANDMARKS if column not in columns]) < len(LANDMARKS):
        raise DatasetError(f"{path}: the header has some landmarks but not {missing}")
    for column, _ in thresholds.values():
        check_names([column], columns, "attribute")
    further = [column for column in columns if column not in ("image", "mask", *LANDMARKS)]
    whole = [column for column in further if _whole([line.cells[column] for line in lines])]
    seen: dict[str, int] = {}
    for line in lines:
        image = line.text("image")
        if (first := seen.setdefault(image, line.number)) != line.number:
            raise line.error("image", f"{image!r} stands on line {first} already")
    return [_face(files, line, whole, thresholds, landmarks=not missing) for line in lines]


def _face(
    files: Files,
    line: Line,
    whole: Sequence[str],
    thresholds: Mapping[str, tuple[str, float]],
    landmarks: bool,
) -> _Face:
    image = line.text("image")
    mask = line.text("mask") if "mask" in line.cells else PurePosixPath(image).with_suffix(".png").as_posix()
    attributes = {column: int(line.cells[column]) for column in whole if line.cells[column]}
    for name, (column, threshold) in thresholds.items():
        if (value := _number(line, column)) is not None:
            attributes[name] = int(value > threshold)
    return _Face(
        line=line,
        image=_located(files, line, "image", image, "images"),
        mask=_located(files, line, "mask", mask, "masks"),
        landmarks=_landmarks(line) if landmarks else None,
        attributes=attributes,
    )


def _whole(cells: Sequence[str]) -> bool:
    """Whether whole numbers stand in the cells that are not empty, and there are some."""
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(_DIGITS.fullmatch(cell) for cell in filled)


def _number(line: Line, column: str) -> float | None:
    """The finite number in a cell, None if the cell is empty."""
    text = line.cells[column].strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise line.error(column, f"{text[:80]!r} is not a finite number")
    return value


def _landmarks(line: Line) -> Tensor | None:
    values = {column: _number(line, column) for column in LANDMARKS}
    known = [value for value in values.values() if value is not None]
    if not known:
        return None
    if len(known) < len(values):
        raise line.error(next(c for c, value in values.items() if value is None), "empty, other landmarks are not")
    return torch.tensor(known).view(5, 2)


def _located(files: Files, line: Line, column: str, name: str, folder: str) -> str:
    try:
        return files.locate(name, folder)
    except DatasetError as error:
        raise line.error(column, str(error)) from error


def _check_face(files: Files, face: _Face, photo: Size) -> None:
    """The mask has the photo's size, and the landmarks lie within it."""
    try:
        files.check_size(face.mask, INDEX_MASK, photo)
    except DatasetError as error:
        raise face.line.error("mask", str(error)) from error
    if face.landmarks is not None:
        highest = torch.tensor([photo[1], photo[0]]) - 0.5
        outside = ((face.landmarks < -0.5) | (face.landmarks > highest)).flatten().nonzero()
        if len(outside):
            raise face.line.error(LANDMARKS[int(outside[0])], f"outside the photo of {photo} (h, w)")
