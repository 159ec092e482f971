"""Reader of the ILSVRC 2013 DET Animal-Part data: animals with the centres and boxes of head and front legs."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_interp.data.readers.files import MAX_PIXELS, Files, Normalize, Size, read_json
from lightning_interp.data.readers.matlab import read_matlab, records
from lightning_interp.data.readers.part_photos import Box, PartObject, PartPhotos
from lightning_interp.errors import DatasetError

# The original's parts are numbered, its categories are WordNet numbers; the names are those of the paper's Table 3.
_PARTS = {"truth_part01.mat": "head", "truth_part02.mat": "frontal_legs"}
_WNID = re.compile(r"n[0-9]{8}")
# fmt: off
_ANIMALS = {
    "n01443537": "goldfish", "n01503061": "bird", "n01639765": "frog", "n01662784": "turtle", "n01674464": "lizard",
    "n01882714": "koala", "n01982650": "lobster", "n02084071": "dog", "n02118333": "fox", "n02121808": "cat",
    "n02129165": "lion", "n02129604": "tiger", "n02131653": "bear", "n02324045": "rabbit", "n02342885": "hamster",
    "n02355227": "squirrel", "n02374451": "horse", "n02391049": "zebra", "n02395003": "swine",
    "n02398521": "hippopotamus", "n02402425": "cattle", "n02411705": "sheep", "n02419796": "antelope",
    "n02437136": "camel", "n02444819": "otter", "n02454379": "armadillo", "n02484322": "monkey",
    "n02503517": "elephant", "n02509815": "red panda", "n02510455": "giant panda",
}
# fmt: on
# Parts were annotated on crops warped to a square of this side; pixels are counted from 1.
_FRAME = 224


_Part = tuple[str, Box, tuple[float, float]]
"""Name, box and centre of a part, in continuous pixels of the photo."""


@dataclass(frozen=True)
class _Animals:
    """What either layout holds: the objects with the names of their classes and parts."""

    objects: list[PartObject]
    classes: list[str]
    parts: list[str]


class AnimalPart(PartPhotos):
    """The DET Animal-Part data in the original layout, or as photos with one COCO-like table.

    ::

        annotations.json                 categories, parts, images, annotations; photos of one animal each

    or, without it, what the two repositories of the authors hold, in one folder (with the ``matlab`` extra)::

        n02084071_obj/img/img/00001.jpg  photos, numbered as the annotations are
        n02084071/truth_part01.mat       heads of all objects with their boxes; truth_part02.mat: front legs

    In ``annotations.json``, ``annotations`` have ``image_id``, ``part`` (a name), ``bbox`` (x, y, width, height) and
    ``landmark`` (x, y), all in continuous pixels, the corner of the first pixel being ``(0, 0)``. Of the original,
    animals without any annotated part are left out; the others are cut out by their boxes.

    The landmark of a part is the centre of its box. As in the authors' code, a part that is annotated more than once
    has none. Each box is also a label plane of category ``"part"``. For what facts and labels hold, see
    :class:`~lightning_interp.data.readers.part_photos.PartPhotos`.

    Args:
        root: The folder.
        size: ``(H, W)`` that animals are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` of the label planes.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every image that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Raises:
        DatasetError: On construction, if a file is missing, malformed or leaves the root, naming file and entry. On
            access, if a photo cannot be decoded.
        MissingExtraError: If the original's MATLAB files cannot be read for want of SciPy or h5py.

    Reference:
        Zhang, Cao, Wu, Zhu, Growing Interpretable Part Graphs on ConvNets via Multi-Shot Learning, AAAI 2017.
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
        table = (files.root / "annotations.json").exists()
        found = _read_table(files) if table else _read_original(files)
        super().__init__(
            files, found.objects, found.classes, found.parts, size=size, mask_size=mask_size, normalize=normalize
        )


def _read_table(files: Files) -> _Animals:
    path = files.root / "annotations.json"
    content = read_json(path)
    named = list(_entries(path, content, "categories"))
    classes = {_key(entry, "id", where): _text(entry, "name", where) for where, entry in named}
    parts = [_text(entry, "name", where) for where, entry in _entries(path, content, "parts")]
    if len(set(classes.values())) < len(classes) or len(set(parts)) < len(parts):
        raise DatasetError(f"{path}: a name of a category or part stands twice")
    boxes: dict[int, list[_Part]] = {}
    images = {_key(entry, "id", where): (where, entry) for where, entry in _entries(path, content, "images")}
    for where, entry in _entries(path, content, "annotations"):
        part, image = _text(entry, "part", where), _key(entry, "image_id", where)
        if part not in parts or image not in images:
            raise DatasetError(f"{where}: part {part[:80]!r} or image {image} is not in the table")
        x, y, width, height = _numbers(entry, "bbox", 4, where)
        u, v = _numbers(entry, "landmark", 2, where)
        boxes.setdefault(image, []).append((part, (x, y, x + width, y + height), (u, v)))
    positions = {number: position for position, number in enumerate(classes)}
    objects = []
    for number, (where, entry) in images.items():
        if (category := _key(entry, "category_id", where)) not in positions:
            raise DatasetError(f"{where}: no category {category}")
        photo = files.locate(_text(entry, "file_name", where))
        objects.append(_object(photo, positions[category], None, boxes.get(number, []), parts))
    return _Animals(objects, list(classes.values()), parts)


def _object(
    photo: str,
    category: int,
    box: tuple[int, int, int, int] | None,
    found: list[_Part],
    parts: list[str],
) -> PartObject:
    """An object from its annotated parts."""
    names = [part for part, _, _ in found]
    return PartObject(
        photo,
        category,
        box,
        {part: (x - 0.5, y - 0.5) for part, _, (x, y) in found if names.count(part) == 1},
        [(1 + parts.index(part), box) for part, box, _ in found],
    )


def _entries(path: Path, content: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """``(where, entry)`` of every entry of a list in the table."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DatasetError(f"{path}: {key!r} is not a list of objects")
    for position, entry in enumerate(found, start=1):
        yield f"{path}, {key} {position}", entry


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DatasetError(f"{where}: {key!r} is {str(value)[:80]!r}, not text")
    return value


def _key(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int:
        raise DatasetError(f"{where}: {key!r} is {str(value)[:80]!r}, not a whole number")
    return value


def _numbers(entry: Mapping[str, Any], key: str, count: int, where: str) -> list[float]:
    values = entry.get(key)
    numbers = isinstance(values, list) and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    if not isinstance(values, list) or not numbers or len(values) != count:
        raise DatasetError(f"{where}: {key!r} is {str(values)[:80]!r}, not {count} finite numbers")
    return [float(value) for value in values]


def _read_original(files: Files) -> _Animals:
    wnids = sorted(path.name for path in files.root.iterdir() if _WNID.fullmatch(path.name))
    parts, objects = list(_PARTS.values()), []
    for category, wnid in enumerate(wnids):
        parted: dict[int, dict[str, Mapping[str, Any]]] = {}
        for name, part in _PARTS.items():
            # Goldfish have no legs.
            if (files.root / wnid / name).exists():
                path = files.root / files.locate(name, wnid)
                for number, record in enumerate(records(read_matlab(path, "truth")), start=1):
                    if np.size(record.get("pHW_center", ())):
                        parted.setdefault(number, {})[part] = record
        for number, own in sorted(parted.items()):
            photo = files.locate(f"{number:05d}.jpg", f"{wnid}_obj/img/img")
            where = f"{files.root / wnid}, object {number}"
            objects.append(_original_object(photo, category, own, parts, where))
    if not objects:
        raise DatasetError(f"{files.root}: neither annotations.json nor n02084071/truth_part01.mat and the like")
    return _Animals(objects, [_ANIMALS.get(wnid, wnid) for wnid in wnids], parts)


def _original_object(
    photo: str, category: int, own: Mapping[str, Mapping[str, Any]], parts: list[str], where: str
) -> PartObject:
    """An animal from the records of its annotated parts."""
    found: list[_Part] = []
    try:
        # Where several animals share a crop, each has a record of the same box.
        boxes = records(next(iter(own.values()))["obj"])[0]["bndbox"]
        edges = {name: int(value) for name, value in boxes.items()}
        # Counted from 1, the last pixel included; some boxes begin at 0.
        left, top = max(edges["xmin"], 1) - 1, max(edges["ymin"], 1) - 1
        width, height = (edges["xmax"] - left) / _FRAME, (edges["ymax"] - top) / _FRAME
        for part, record in own.items():
            # A column for each animal in the crop; rows come first, thus y before x and height before width.
            centres, sides = (np.asarray(record[key], float).reshape(2, -1).T for key in ("pHW_center", "pHW_scale"))
            for (v, u), (tall, wide) in zip(centres.tolist(), sides.tolist(), strict=True):
                x, y = left + (u - 0.5) * width, top + (v - 0.5) * height
                half = wide * width / 2, tall * height / 2
                found.append((part, (x - half[0], y - half[1], x + half[0], y + half[1]), (x, y)))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{where}: malformed: {type(error).__name__}: {error}") from error
    return _object(photo, category, (left, top, edges["xmax"], edges["ymax"]), found, parts)
