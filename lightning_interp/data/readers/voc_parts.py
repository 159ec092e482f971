"""Reader of PASCAL-Part: animals of PASCAL VOC 2010 with masks of their parts, in the published MATLAB files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_interp.data.landmarks import Point
from lightning_interp.data.probe import Labels
from lightning_interp.data.readers.files import MAX_PIXELS, Files, Normalize, Size
from lightning_interp.data.readers.matlab import read_matlab, records
from lightning_interp.data.readers.part_photos import PartObject, PartPhotos
from lightning_interp.errors import DatasetError

_MASKS, _PHOTOS = "Annotations_Part", "JPEGImages"
ANIMALS = ("bird", "cat", "cow", "dog", "horse", "sheep")
"""The classes that the papers on interpretable filters use."""

# The merged parts of Zhang, Wu and Zhu (CVPR 2018, 5.2.1) by the names of PASCAL-Part.
_MERGED: Mapping[str, tuple[str, ...]] = {
    "head": ("head", "leye", "reye", "lear", "rear", "beak", "nose", "muzzle", "lhorn", "rhorn"),
    "torso": ("torso", "neck", "lwing", "rwing"),
    "legs": ("lleg", "lfoot", "rleg", "rfoot"),
    "front legs": ("lfleg", "lfpa", "rfleg", "rfpa", "lfuleg", "lflleg", "rfuleg", "rflleg", "lfho", "rfho"),
    "back legs": ("lbleg", "lbpa", "rbleg", "rbpa", "lbuleg", "lblleg", "rbuleg", "rblleg", "lbho", "rbho"),
    "tail": ("tail",),
}
_NUMBERS = {part: number for number, parts in enumerate(_MERGED.values(), start=1) for part in parts}
_TAILED = ("bird", "cat", "dog")


@dataclass(frozen=True)
class _Animal:
    """An object of an annotation file: its class, its mask and those of its parts, ``(h, w)`` bool."""

    name: str
    mask: NDArray[np.bool_]
    parts: Mapping[str, NDArray[np.bool_]]


class VOCParts(PartPhotos):
    """PASCAL-Part's six animals, cut out by the boxes of their masks (with the ``matlab`` extra).

    ::

        Annotations_Part/NAME.mat     structure anno: objects with class, mask and parts with part_name and mask
        JPEGImages/NAME.jpg           the photos of PASCAL VOC 2010

    Each animal is an item. Its landmarks are the centres of the boxes of its parts' masks, which is where the authors'
    annotation files have them. Its label planes are the animal itself (category ``"object"``) and, in category
    ``"part"``, the parts merged as for the published part interpretability: head, torso (with neck and wings), the
    legs of birds, the front and back legs of the others, and the tails of birds, cats and dogs. For what facts hold,
    see :class:`~lightning_interp.data.readers.part_photos.PartPhotos`.

    All chosen annotation files are read on construction, and one again for each item's labels.

    Args:
        root: The folder.
        photos: Names without ending, such as those of a list in VOC's ``ImageSets``; None for all that are annotated.
        landmarks: Names of the parts that are landmarks, by PASCAL-Part's names; by default those of the papers.
        min_area: Animals with a smaller box, in pixels, are left out. The authors' code does so too; the size it asks
            for was not to be had.
        size: ``(H, W)`` that animals are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` of the label planes (nearest).
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every image that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Raises:
        DatasetError: On construction, if a file is missing, malformed or leaves the root, or no animal is found,
            naming the file. On access, if a file cannot be read.
        MissingExtraError: If SciPy, which reads the annotations, is not installed.

    Reference:
        Chen et al., Detect What You Can: Detecting and Representing Objects using Holistic Models and Body Parts,
        CVPR 2014.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        photos: Sequence[str] | None = None,
        landmarks: Sequence[str] = ("head", "neck", "torso"),
        min_area: int = 2500,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        files = Files.below(root, max_pixels, verify)
        objects, shapes, self._sources = [], [], list[tuple[str, int]]()
        for name in _annotated(files) if photos is None else photos:
            source = files.locate(f"{name}.mat", _MASKS)
            for position, animal in _animals(files.root / source):
                box = _bounds(animal.mask)
                if (box[2] - box[0]) * (box[3] - box[1]) >= min_area:
                    photo = files.locate(f"{name}.jpg", _PHOTOS)
                    places = {part: _centre(animal.parts[part]) for part in landmarks if part in animal.parts}
                    objects.append(PartObject(photo, ANIMALS.index(animal.name), box, places))
                    self._sources.append((source, position))
                    shapes.append(animal.mask.shape)
        super().__init__(files, objects, ANIMALS, list(_MERGED), size=size, mask_size=mask_size, normalize=normalize)
        for (source, _), stored, shape in zip(self._sources, self.stored_sizes, shapes, strict=True):
            if shape != stored:
                raise DatasetError(f"{files.root / source}: masks of {shape} (h, w) for a photo of {stored}")

    def labels(self, index: int) -> Labels:
        """The animal and its merged parts, a plane ``(h, w)`` int32 each.

        Raises:
            DatasetError: If the annotation file cannot be read.
        """
        source, position = self._sources[index]
        animal = dict(_animals(self.files.root / source))[position]
        parts = np.zeros(animal.mask.shape, dtype=np.int32)
        # In the published order of merging, in which later parts lie over earlier ones.
        for part in sorted(set(animal.parts) & set(_NUMBERS), key=lambda name: (_NUMBERS[name], name)):
            if part != "tail" or animal.name in _TAILED:
                parts[animal.parts[part]] = _NUMBERS[part]
        (number,) = self._class_label(index)["object"]
        planes = {"part": parts, "object": number * animal.mask.astype(np.int32)}
        crop, stored = self.crops[index], self.stored_sizes[index]
        return Labels(
            {name: crop.masks(torch.from_numpy(plane), stored, self.mask_size) for name, plane in planes.items()}
        )


def _annotated(files: Files) -> list[str]:
    """Names of the annotation files."""
    try:
        return sorted(path.stem for path in (files.root / _MASKS).iterdir() if path.suffix == ".mat")
    except OSError as error:
        raise DatasetError(f"{files.root / _MASKS}: {error.strerror or error}") from error


def _animals(path: Path) -> Iterator[tuple[int, _Animal]]:
    """The animals of an annotation file with their positions among its objects."""
    annotation = read_matlab(path, "anno")
    try:
        for position, found in enumerate(records(annotation["objects"])):
            if found["class"] in ANIMALS:
                mask = _mask(found["mask"])
                parts = {part["part_name"]: _mask(part["mask"]) for part in records(found["parts"])}
                if any(part.shape != mask.shape for part in parts.values()):
                    raise ValueError("masks of different sizes")
                if mask.any():
                    seen = {name: part for name, part in parts.items() if part.any()}
                    yield position, _Animal(found["class"], mask, seen)
    except (LookupError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: malformed: {type(error).__name__}: {error}") from error


def _mask(values: Any) -> NDArray[np.bool_]:
    mask = np.asarray(values) != 0
    if mask.ndim != 2:
        raise ValueError(f"a mask of shape {mask.shape}")
    return np.asarray(mask)


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask that is not empty."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centre(mask: NDArray[np.bool_]) -> Point:
    """Centre of a mask's box, x and y, whole numbers being centres of pixels."""
    left, top, right, bottom = _bounds(mask)
    return (left + right - 1) / 2, (top + bottom - 1) / 2
