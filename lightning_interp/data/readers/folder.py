"""Reader of a user's own folder: photos, index-PNG masks and ``classes.json``."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.files import (
    INDEX_MASK,
    MAX_NUMBER,
    MAX_PIXELS,
    PHOTO,
    Files,
    Normalize,
    PhotoSet,
    Size,
    nearest,
    number_table,
    read_json,
    translate,
)
from lightning_interp.errors import DatasetError

_SUFFIXES = (".jpg", ".jpeg", ".png")


class SegmentationFolder(PhotoSet):
    """Photos with masks of class numbers, in a folder of this form.

    ::

        images/NAME.jpg              also .jpeg and .png; one photo a NAME
        masks/NAME.png               each pixel counts for its class's own category
        masks/<category>/NAME.png    each pixel counts for this category
        classes.json                 what the numbers mean

    Each photo has at least one mask, of the photo's size: a grey or palette PNG of up to 16 bits whose stored
    values are class numbers. Further masks in category folders let a pixel carry several classes, and a class
    stand in several categories.

    ``classes.json`` is ``{"classes": [{"id": 1, "name": "sky", "category": "object"}, ...]}``; or that list
    alone; or a list of names, numbered from 1; or ``{"1": "sky", ...}``. The category is ``"object"`` where
    none is given. 0 always means unlabelled, and so does the number given as ``"unlabelled"``, such as 255.

    Photos are in the order of their names. Other files in ``images/`` and masks without a photo are ignored.

    Args:
        root: The folder.
        size: ``(H, W)`` that photos are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` that masks are scaled to (nearest).
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every file that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Raises:
        DatasetError: On construction, if a file is missing, of the wrong kind or size, or leaves the root, or
            if ``classes.json`` is malformed. On access, if a file cannot be decoded or a mask has a number
            that is no class, naming file and number.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        files = Files.below(root, max_pixels, verify)
        concepts, unlabelled = read_classes(files.root / "classes.json")
        categories = sorted({concept.category for concept in concepts})
        folders = _mask_folders(files.root, categories)
        photos = _photos(files)
        super().__init__(files, list(photos.values()), concepts, size=size, mask_size=mask_size, normalize=normalize)
        self._sizes = [files.size(photo, PHOTO) for photo in self.photos]
        self._masks = [_masks(files, stem, folders, size) for stem, size in zip(photos, self._sizes, strict=True)]
        self._table = number_table({c.number: c.number for c in concepts} | {unlabelled: 0})
        self._members = {category: np.zeros(MAX_NUMBER + 1, dtype=bool) for category in categories}
        for concept in concepts:
            self._members[concept.category][concept.number] = True

    def labels(self, index: int) -> Labels:
        """Label planes of image ``index``, ``(P, h, w)`` int32 by category; categories it lacks are absent.

        Raises:
            DatasetError: If a mask cannot be decoded or has a number that is no class.
        """
        planes: dict[str, list[Tensor]] = {}
        for folder, name in self._masks[index]:
            stored = self.files.mask(name, INDEX_MASK, self._sizes[index])
            numbers = nearest(translate(stored, self._table, self.files.root / name), self.mask_size)
            for category, plane in self._by_category(folder, numbers):
                if plane.any():
                    planes.setdefault(category, []).append(torch.from_numpy(plane))
        return Labels({category: torch.stack(own) for category, own in planes.items()})

    def _by_category(self, folder: str, numbers: NDArray[np.int32]) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """The planes that a mask stands for: one for its category folder, or one for each category in it."""
        if folder:
            yield folder, numbers
        else:
            for category, member in self._members.items():
                yield category, np.where(member[numbers], numbers, 0)


def read_classes(path: Path) -> tuple[tuple[Concept, ...], int]:
    """The classes of a ``classes.json``, in its order, and the value that means unlabelled.

    Raises:
        DatasetError: If the file is malformed, or a number or name stands twice, naming the entry.
    """
    content, unlabelled = read_json(path), 0
    if isinstance(content, dict) and "classes" in content:
        content, unlabelled = content["classes"], content.get("unlabelled", 0)
    if type(unlabelled) is not int or not 0 <= unlabelled <= MAX_NUMBER:
        raise DatasetError(f"{path}: 'unlabelled' is {_shown(unlabelled)}, not a whole number in 0...{MAX_NUMBER}")
    concepts: dict[int, Concept] = {}
    names: set[tuple[str, str]] = set()
    for where, number, name, category in _entries(path, content):
        if type(number) is not int or not 1 <= number <= MAX_NUMBER or number == unlabelled:
            raise DatasetError(
                f"{where}: id {_shown(number)} is not a whole number in 1...{MAX_NUMBER}, unlabelled apart"
            )
        for text in (name, category):
            if not isinstance(text, str) or not text.strip():
                raise DatasetError(f"{where}: name and category must be text, not {_shown(text)}")
        if number in concepts or (name, category) in names:
            raise DatasetError(f"{where}: id {number} or name {_shown(name)} stands twice")
        concepts[number] = Concept(number, name, category)
        names.add((name, category))
    if not concepts:
        raise DatasetError(f"{path}: no class")
    return tuple(concepts.values()), unlabelled


def _entries(path: Path, content: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """``(where, id, name, category)`` of every class, none of them checked."""
    if isinstance(content, list):
        for position, entry in enumerate(content, start=1):
            where = f"{path}, class {position}"
            if isinstance(entry, dict):
                yield where, entry.get("id"), entry.get("name"), entry.get("category", "object")
            else:
                yield where, position, entry, "object"
    elif isinstance(content, dict):
        for key, name in content.items():
            digits = key.isascii() and key.isdigit() and len(key) <= 9
            yield f"{path}, key {_shown(key)}", int(key) if digits else key, name, "object"
    else:
        raise DatasetError(f"{path}: expected a list or an object of classes, not {_shown(content)}")


def _shown(value: Any) -> str:
    """The value for a message, cut where it is long."""
    return repr(value)[:80]


def _photos(files: Files) -> dict[str, str]:
    """By stem, in order, the photo's file relative to the root."""
    photos: dict[str, str] = {}
    for path in _listed(files.root / "images"):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            if path.stem in photos:
                raise DatasetError(f"{path}: {photos[path.stem]} has the same stem, and a mask belongs to one")
            photos[path.stem] = files.locate(path.name, "images")
    return dict(sorted(photos.items()))


def _mask_folders(root: Path, categories: Sequence[str]) -> tuple[str, ...]:
    """The category folders below ``masks/``, after ``""`` for ``masks/`` itself."""
    folders = [path.name for path in _listed(root / "masks") if path.is_dir()]
    if unknown := [name for name in folders if name not in categories]:
        raise DatasetError(f"{root / 'masks' / unknown[0]}: no class has this category; there are {categories}")
    return ("", *folders)


def _masks(files: Files, stem: str, folders: Sequence[str], size: Size) -> tuple[tuple[str, str], ...]:
    """``(folder, file)`` of every mask of a photo, after their headers were seen to fit it."""
    masks = tuple(
        (folder, files.locate(f"{stem}.png", f"masks/{folder}"))
        for folder in folders
        if os.path.lexists(files.root / "masks" / folder / f"{stem}.png")
    )
    if not masks:
        raise DatasetError(f"{files.root / 'masks' / stem}.png: no mask for this photo")
    for _, name in masks:
        files.check_size(name, INDEX_MASK, size)
    return masks


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, by name."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"{folder}: {error.strerror or error}") from error
