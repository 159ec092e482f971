"""Reader of Caltech-UCSD Birds-200-2011 with its part locations, in the published layout."""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from lightning_interp.data.landmarks import Point
from lightning_interp.data.readers.files import MAX_PIXELS, Files, Normalize, Size
from lightning_interp.data.readers.part_photos import PartObject, PartPhotos
from lightning_interp.data.readers.tables import MAX_LINE, Line
from lightning_interp.errors import DatasetError

_MOST = 999_999_999


class CUB200Parts(PartPhotos):
    """CUB-200-2011: birds of 200 species with the places of up to 15 parts.

    ::

        images/NNN.Species/NAME.jpg     the photos
        images.txt                      <image> <file>
        classes.txt                     <class> <name>
        image_class_labels.txt          <image> <class>
        train_test_split.txt            <image> <1 in the training set, else 0>; needed for split=
        bounding_boxes.txt              <image> <x> <y> <width> <height>
        parts/parts.txt                 <part> <name>
        parts/part_locs.txt             <image> <part> <x> <y> <1 if visible, else 0>

    Landmarks are the visible parts. The papers on interpretable filters use three of them: ``"forehead"`` (for the
    head), ``"back"`` and ``"tail"``. The data say only that places are "in pixels": they are taken to count from 0,
    whole numbers being centres of pixels. There are no masks of parts, so the only concepts are the classes. For what
    facts hold, see :class:`~lightning_interp.data.readers.part_photos.PartPhotos`.

    Args:
        root: The folder.
        split: Only photos of this set; None for all.
        parts: Only landmarks of these parts; None for all.
        crop: Whether the bird's bounding box is cut out; else whole photos are scaled.
        size: ``(H, W)`` that birds are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` that units are dissected at.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every image that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Raises:
        DatasetError: On construction, if a file is missing, malformed or leaves the root, a row stands twice or
            belongs to nothing, or a part is unknown, naming file and line. On access, if a photo cannot be decoded.

    Reference:
        Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: Literal["train", "test"] | None = None,
        parts: Sequence[str] | None = None,
        crop: bool = True,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        if split not in ("train", "test", None):
            raise DatasetError(f"split must be 'train', 'test' or None, not {split!r}")
        files = Files.below(root, max_pixels, verify)
        photos = _by_image(files, "images.txt", ("file",))
        classes = {
            line.integer("class", _MOST): line.text("name") for line in _rows(files, "classes.txt", ("class", "name"))
        }
        positions = {number: position for position, number in enumerate(classes)}
        labels = _by_image(files, "image_class_labels.txt", ("class",))
        boxes = _by_image(files, "bounding_boxes.txt", ("x", "y", "width", "height")) if crop else {}
        chosen = list(photos)
        if split is not None:
            training = _by_image(files, "train_test_split.txt", ("training",))
            chosen = [n for n in chosen if _flag(_of(training, n, photos), "training") == (split == "train")]
        places = _read_places(files, frozenset(chosen), parts)
        objects = []
        for number in chosen:
            label = _of(labels, number, photos)
            if (category := label.integer("class", _MOST)) not in positions:
                raise label.error("class", f"{category} is not in classes.txt")
            box = _box(_of(boxes, number, photos)) if crop else None
            name = files.locate(photos[number].text("file"), "images")
            objects.append(PartObject(name, positions[category], box, places.get(number, {})))
        super().__init__(
            files, objects, list(classes.values()), (), size=size, mask_size=mask_size, normalize=normalize
        )


def _rows(files: Files, name: str, columns: Sequence[str]) -> Iterator[Line]:
    """The rows of a table of words between blanks without a header; the last column takes what is left."""
    path = files.root / files.locate(name)
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(iter(lambda: handle.readline(MAX_LINE + 1), b""), start=1):
                if len(raw) > MAX_LINE:
                    raise DatasetError(f"{path}, line {number}: longer than {MAX_LINE} bytes")
                cells = raw.decode("utf-8").strip().split(maxsplit=len(columns) - 1)
                if len(cells) not in (0, len(columns)):
                    raise DatasetError(f"{path}, line {number}: {len(cells)} cells, expected {', '.join(columns)}")
                if cells:
                    yield Line(path, number, dict(zip(columns, cells, strict=True)))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error


def _by_image(files: Files, name: str, columns: Sequence[str]) -> dict[int, Line]:
    """The rows of a table by the number of their image."""
    found: dict[int, Line] = {}
    for line in _rows(files, name, ("image", *columns)):
        if (image := line.integer("image", _MOST)) in found:
            raise line.error("image", f"{image} stands on line {found[image].number} already")
        found[image] = line
    return found


def _of(table: Mapping[int, Line], image: int, photos: Mapping[int, Line]) -> Line:
    """The row of an image in another table."""
    if image not in table:
        raise photos[image].error("image", f"{image} is in no row of a table that has to have it")
    return table[image]


def _read_places(files: Files, chosen: Container[int], wanted: Sequence[str] | None) -> dict[int, dict[str, Point]]:
    """By image, the places of its visible parts by name."""
    columns = ("part", "name")
    names = {line.integer("part", _MOST): line.text("name") for line in _rows(files, "parts/parts.txt", columns)}
    if unknown := sorted(set(wanted or ()) - set(names.values())):
        raise DatasetError(f"unknown parts {unknown}; there are {sorted(names.values())}")
    places: dict[int, dict[str, Point]] = {}
    for line in _rows(files, "parts/part_locs.txt", ("image", "part", "x", "y", "visible")):
        image, part = line.integer("image", _MOST), line.integer("part", _MOST)
        if part not in names:
            raise line.error("part", f"{part} is not in parts.txt")
        name = names[part]
        if not _flag(line, "visible") or image not in chosen or (wanted is not None and name not in wanted):
            continue
        if name in places.setdefault(image, {}):
            raise line.error("part", f"{name!r} of image {image} stands twice")
        places[image][name] = _pixels(line, "x"), _pixels(line, "y")
    return places


def _box(line: Line) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, whole pixels."""
    x, y, width, height = (_pixels(line, column) for column in ("x", "y", "width", "height"))
    return round(x), round(y), round(x + width), round(y + height)


def _flag(line: Line, column: str) -> bool:
    if (cell := line.cells[column]) not in ("0", "1"):
        raise line.error(column, f"{cell[:80]!r} is not 0 or 1")
    return cell == "1"


def _pixels(line: Line, column: str) -> float:
    try:
        value = float(line.cells[column])
    except ValueError:
        value = math.nan
    if not abs(value) <= _MOST:
        raise line.error(column, f"{line.cells[column][:80]!r} is not a finite number")
    return value
