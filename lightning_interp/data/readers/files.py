"""Safe reading of photos, label masks and JSON below one folder; what every reader of files shares."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from lightning_interp.data.probe import Concept, ProbeSet
from lightning_interp.errors import DatasetError

Size = tuple[int, int]
Stats = tuple[tuple[float, ...], tuple[float, ...]]
Normalize = Literal["imagenet"] | tuple[tuple[float, ...], tuple[float, ...]] | None

IMAGENET: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAX_PIXELS = 50_000_000
MAX_NUMBER = 65_535
MANIFEST = "manifest.json"
_MAX_JSON = 64 * 2**20
# PIL spreads grey levels of 2 and 4 bits over 0...255; a label mask means the stored level.
_GREY_STEP = {"L;2": 85, "L;4": 17}


class Kind(NamedTuple):
    """What an image file may be: its name in messages, PIL formats and PIL modes."""

    name: str
    formats: tuple[str, ...]
    modes: tuple[str, ...]


# A closed list of formats: PIL also knows some that start other programs.
PHOTO = Kind("a photo", ("JPEG", "PNG", "GIF", "BMP"), ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))
INDEX_MASK = Kind("an index mask (grey or palette PNG)", ("PNG",), ("1", "L", "P", "I", "I;16"))
RGB_MASK = Kind("a Broden label plane (RGB PNG)", ("PNG",), ("RGB",))


@dataclass(frozen=True)
class Files:
    """The files below one folder, opened with care.

    Args:
        root: The folder, resolved; nothing outside it is opened.
        max_pixels: Larger images are refused by their header, before they are decoded.
        digests: SHA-256 by name, checked whenever a file is decoded; None to check nothing.
    """

    root: Path
    max_pixels: int = MAX_PIXELS
    digests: Mapping[str, str] | None = None

    @classmethod
    def below(cls, root: str | Path, max_pixels: int = MAX_PIXELS, verify: bool = False) -> "Files":
        """The files below ``root``, with the digests of its ``manifest.json`` if they are to be verified.

        Raises:
            DatasetError: If the folder does not exist, or the manifest is missing or malformed.
        """
        folder = Path(root).resolve()
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder")
        return cls(folder, max_pixels, _read_manifest(folder / MANIFEST) if verify else None)

    def locate(self, name: str, folder: str = ".") -> str:
        """Name of an existing file relative to the root; symbolic links may not lead out of it.

        Args:
            name: Path relative to ``folder``.
            folder: Path relative to the root.

        Raises:
            DatasetError: If the name is absolute, holds ``..``, leaves the root, is no file, or is not in the
                manifest.
        """
        asked = Path(name)
        if asked.is_absolute() or ".." in asked.parts:
            raise DatasetError(f"{name!r}: absolute paths and '..' are refused")
        relative = Path(folder) / asked
        try:
            path = (self.root / relative).resolve(strict=True)
            found = path.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise DatasetError(f"{self.root / relative}: {_reason(error)}") from error
        if not path.is_relative_to(self.root):
            raise DatasetError(f"{self.root / relative}: leaves the folder {self.root}")
        if not found:
            raise DatasetError(f"{self.root / relative}: not a file")
        key = relative.as_posix()
        if self.digests is not None and key not in self.digests:
            raise DatasetError(f"{self.root / MANIFEST}: {key!r} is not in the manifest")
        return key

    def size(self, name: str, kind: Kind) -> Size:
        """``(h, w)`` of an image, from its header alone.

        Raises:
            DatasetError: If the file is unreadable, too large, or not of this kind.
        """
        with self._open(name, kind, self.root / name) as image:
            return image.height, image.width

    def check_size(self, name: str, kind: Kind, expected: Size) -> None:
        """Check the ``(h, w)`` of an image by its header.

        Raises:
            DatasetError: If it is another, or as :meth:`size`.
        """
        self._compare_size(name, self.size(name, kind), expected)

    def photo(self, name: str, size: Size | None) -> Tensor:
        """A photo as ``(3, H, W)`` uint8, scaled to ``size`` (bilinear, antialiased; None: as stored).

        Grey levels are repeated in the three channels and alpha is dropped. EXIF orientation is not applied,
        so that the pixels stay where the label masks have them.

        Raises:
            DatasetError: If the file cannot be decoded, is too large, or does not have its digest.
        """
        with self._open(name, PHOTO, self._content(name)) as image:
            # PIL warns when a palette with transparency is converted directly.
            rgb = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
            if size is not None and (rgb.height, rgb.width) != size:
                rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.array(rgb, dtype=np.uint8)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def mask(self, name: str, kind: Kind, size: Size) -> NDArray[np.int32]:
        """A label mask's stored values, ``(h, w)`` or ``(h, w, 3)`` int32: palette indices, never colours.

        Args:
            name: The file, relative to the root.
            kind: What it has to be.
            size: The ``(h, w)`` it has to have.

        Raises:
            DatasetError: As :meth:`photo`; also if the mask has another size.
        """
        with self._open(name, kind, self._content(name)) as image:
            step = _GREY_STEP.get(str(image.tile[0][3]), 1)
            values = np.asarray(image).astype(np.int32) // step
        self._compare_size(name, values.shape[:2], size)
        return values

    def _compare_size(self, name: str, found: Sequence[int], expected: Size) -> None:
        if tuple(found) != expected:
            raise DatasetError(f"{self.root / name}: size {tuple(found)} (h, w), expected {expected}")

    def _content(self, name: str) -> Path | BytesIO:
        """What to decode: the file or, if digests are checked, the very bytes that were checked."""
        if self.digests is None:
            return self.root / name
        try:
            content = (self.root / name).read_bytes()
        except OSError as error:
            raise DatasetError(f"{self.root / name}: {_reason(error)}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.digests[name]:
            raise DatasetError(f"{self.root / name}: SHA-256 {digest}, the manifest has {self.digests[name]}")
        return BytesIO(content)

    @contextmanager
    def _open(self, name: str, kind: Kind, source: Path | BytesIO) -> Iterator[ImageFile.ImageFile]:
        """The image with its header read and checked; what PIL raises becomes a ``DatasetError``."""
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise DatasetError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True: damaged images would pass unseen")
        path = self.root / name
        try:
            with Image.open(source, formats=kind.formats) as image:
                if (pixels := image.width * image.height) > self.max_pixels:
                    raise DatasetError(f"{path}: {pixels} pixels, more than max_pixels={self.max_pixels}")
                if image.mode not in kind.modes:
                    raise DatasetError(f"{path}: mode {image.mode} is not that of {kind.name}")
                yield image
        except DatasetError:
            raise
        except Exception as error:  # PIL's decoders raise nearly every class on hostile bytes
            raise DatasetError(f"{path}: not readable as {kind.name}: {_reason(error)}") from error


class PhotoSet(ProbeSet):
    """Base of the probe sets that read photos from files: everything but the labels.

    Args:
        files: The folder.
        photos: Name of each photo, as :meth:`Files.locate` gives it.
        concepts: Every label.
        size: ``(H, W)`` to scale photos to; None as stored.
        mask_size: ``(h, w)`` of the label planes.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel, or None.
    """

    def __init__(
        self,
        files: Files,
        photos: Sequence[str],
        concepts: Sequence[Concept],
        *,
        size: Size | None,
        mask_size: Size,
        normalize: Normalize,
    ) -> None:
        if not photos:
            raise DatasetError(f"{files.root}: no image to probe")
        self.files = files
        self.photos = tuple(photos)
        self.concepts = tuple(concepts)
        self.size = None if size is None else _checked_size(size, "size")
        self.mask_size = _checked_size(mask_size, "mask_size")
        self.normalize = _channel_stats(normalize)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.photos)

    def image(self, index: int) -> Tensor:
        """Photo ``index``, ``(3, H, W)`` uint8.

        Raises:
            DatasetError: If it cannot be decoded.
        """
        return self.files.photo(self.photos[index], self.size)

    def describe(self) -> dict[str, Any]:
        """What identifies the set: here also the folder's name, photo size and a digest of the names."""
        names = hashlib.sha256("\n".join(self.photos).encode(errors="surrogateescape")).hexdigest()
        return super().describe() | {
            "root": self.files.root.name,
            "size": self.size and list(self.size),
            "names": names,
        }


def number_table(numbers: Mapping[int, int]) -> NDArray[np.int32]:
    """Look-up table of label values for :func:`translate`.

    Args:
        numbers: Concept number by stored value; 0 for values that count as unlabelled.

    Returns:
        ``(65536,)`` int32, -1 at values that mean nothing.
    """
    table = np.full(MAX_NUMBER + 1, -1, dtype=np.int32)
    table[0] = 0
    for value, number in numbers.items():
        table[value] = number
    return table


def translate(values: NDArray[np.int32], table: NDArray[np.int32], path: Path) -> NDArray[np.int32]:
    """Concept numbers of stored values.

    Args:
        values: ``(h, w)`` int32 in 0...65535.
        table: From :func:`number_table`.
        path: The file they come from, for the message.

    Raises:
        DatasetError: At a value that means nothing, naming it and its place.
    """
    numbers = table[values]
    if (unknown := numbers < 0).any():
        row, column = np.argwhere(unknown)[0]
        raise DatasetError(f"{path}: label {values[row, column]} at row {row}, column {column} is not declared")
    return numbers


def nearest(plane: NDArray[np.int32], size: Size) -> NDArray[np.int32]:
    """Scale ``(h, w)`` labels to ``size``, taking the value under each new pixel's centre.

    The rule of ``torch.nn.functional.interpolate(mode="nearest-exact")``, in integers.

    Example:
        >>> nearest(np.array([[1, 2, 3, 4]], dtype=np.int32), (1, 2)).tolist()
        [[2, 4]]
    """
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, plane.shape, strict=True))
    return plane[np.ix_(rows, columns)]


def read_json(path: Path) -> Any:
    """Parse a JSON file, refusing duplicate keys.

    Raises:
        DatasetError: If the file is missing, above 64 MiB or malformed, with line and column where known.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise DatasetError(f"{path}: larger than {_MAX_JSON} bytes")
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except DatasetError:
        raise
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: {_reason(error)}") from error


def write_manifest(root: str | Path) -> Path:
    """Write ``manifest.json``, the SHA-256 of every file below ``root``, for readers with ``verify=True``.

    Some damage, such as zeroed bytes inside a JPEG, decodes without an error; only a digest finds it.
    """
    folder = Path(root)
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    fresh = folder / f"{MANIFEST}.tmp"
    fresh.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    return fresh.replace(folder / MANIFEST)


def _read_manifest(path: Path) -> dict[str, str]:
    digests = read_json(path)
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise DatasetError(f"{path}: expected an object of SHA-256 digests by file name")
    return digests


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return keys


def _checked_size(size: Sequence[int], name: str) -> Size:
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise DatasetError(f"{name} must be two positive integers (height, width), not {size!r}")
    if size[0] * size[1] > MAX_PIXELS:
        raise DatasetError(f"{name}={tuple(size)} is more than {MAX_PIXELS} pixels")
    return size[0], size[1]


def _channel_stats(normalize: Normalize) -> Stats | None:
    """The (mean, std) that ``normalize`` stands for, as nested tuples."""
    if normalize is None:
        return None
    if isinstance(normalize, str):
        if normalize != "imagenet":
            raise DatasetError(f"normalize={normalize!r} is not 'imagenet', (mean, std) or None")
        return IMAGENET
    try:
        mean, std = (tuple(float(value) for value in channel) for channel in normalize)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"normalize={normalize!r} is not 'imagenet', (mean, std) or None") from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or not all(map(math.isfinite, mean + std)):
        raise DatasetError(f"normalize={normalize!r}: mean and std need three finite values, std above 0")
    return mean, std


def _reason(error: Exception) -> str:
    """The error in words, without the path that the message already has."""
    text = isinstance(error, OSError) and error.strerror
    return f"{type(error).__name__}: {text or error}"
