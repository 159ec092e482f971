"""Label planes of an image as one map of regions, each a set of concepts: small to keep, quick to count."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Regions(NamedTuple):
    """The labels of one image: every pixel belongs to one region, every region carries a set of concepts.

    A concept is thus at most once at a pixel, however many planes or image-level labels name it.

    Attributes:
        map: ``(h * w,)`` unsigned integers, the region of every pixel.
        region: ``(E,)`` int32 and
        concept: ``(E,)`` int32, the pairs "region carries concept" (columns of the result), each once, sorted.
    """

    map: NDArray[np.unsignedinteger]
    region: NDArray[np.int32]
    concept: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Number of regions."""
        return int(self.map.max()) + 1 if self.map.size else 0


class UnknownLabelError(ValueError):
    """A label number that no concept has."""


class BadPlaneError(ValueError):
    """A label plane of another size or of another type than expected."""


def concept_lookup(numbers: Sequence[int]) -> NDArray[np.int32]:
    """Table from label number to column: -1 for 0 (unlabelled), -2 for numbers that no concept has.

    Example:
        >>> concept_lookup([2, 5]).tolist()
        [-1, -2, 0, -2, -2, 1]
    """
    table = np.full(max(numbers, default=0) + 1, -2, dtype=np.int32)
    table[0] = -1
    table[list(numbers)] = np.arange(len(numbers), dtype=np.int32)
    return table


def encode_regions(
    planes: Mapping[str, Tensor],
    image_labels: Mapping[str, Iterable[int]],
    lookup: NDArray[np.int32],
    size: tuple[int, int],
) -> Regions:
    """Encode the labels of one image.

    Args:
        planes: By category, label numbers ``(h, w)`` or ``(P, h, w)``; 0 is unlabelled.
        image_labels: By category, numbers that hold at every pixel; 0 is ignored.
        lookup: From :func:`concept_lookup`.
        size: ``(h, w)`` that every plane must have.

    Raises:
        UnknownLabelError: If a number belongs to no concept.
        BadPlaneError: If a plane is not of integers or not of that size.
    """
    stack = [flat for name, plane in planes.items() for flat in _flat_planes(name, plane, size)]
    whole = [_column(int(number), lookup, name) for name, numbers in image_labels.items() for number in numbers]
    region = np.zeros(size[0] * size[1], dtype=np.int64)
    carried = np.zeros((1, 0), dtype=np.int32)
    for name, flat in stack:
        columns, local = _columns(name, flat, lookup)
        combined = region * len(columns) + local
        present = np.bincount(combined, minlength=len(carried) * len(columns)) > 0
        old, new = np.divmod(np.flatnonzero(present), len(columns))
        region = (np.cumsum(present) - 1)[combined]
        carried = np.concatenate([carried[old], columns[new][:, None]], axis=1)
    everywhere = np.tile(np.array(whole, dtype=np.int32), (len(carried), 1))
    return _regions(region, np.concatenate([carried, everywhere], axis=1), len(lookup))


def _flat_planes(name: str, plane: Tensor, size: tuple[int, int]) -> list[tuple[str, NDArray[np.int64]]]:
    if not isinstance(plane, Tensor):
        raise BadPlaneError(f"label plane '{name}' is a {type(plane).__name__}; give a tensor of integers")
    if plane.is_floating_point() or plane.is_complex():
        raise BadPlaneError(f"label plane '{name}' has dtype {plane.dtype}; label numbers are integers")
    if plane.ndim not in (2, 3) or tuple(plane.shape[-2:]) != tuple(size):
        raise BadPlaneError(f"label plane '{name}' has shape {tuple(plane.shape)}, expected (h, w) = {tuple(size)}")
    flat = plane.reshape(-1, size[0] * size[1]).numpy().astype(np.int64)
    return [(name, one) for one in flat]


def _column(number: int, lookup: NDArray[np.int32], name: str) -> int:
    """Column of one label number, -1 for 0."""
    if not 0 <= number < len(lookup) or lookup[number] == -2:
        raise UnknownLabelError(f"label number {number} in '{name}' belongs to no concept")
    return int(lookup[number])


def _columns(
    name: str, flat: NDArray[np.int64], lookup: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Columns that occur in a plane, and for every pixel the position of its own among them."""
    for number in (int(flat.min(initial=0)), int(flat.max(initial=0))):
        if not 0 <= number < len(lookup):
            raise UnknownLabelError(f"label number {number} in '{name}' belongs to no concept")
    present = np.bincount(flat, minlength=len(lookup)) > 0
    numbers = np.flatnonzero(present)
    columns = np.array([_column(int(number), lookup, name) for number in numbers], dtype=np.int32)
    return columns, (np.cumsum(present) - 1)[flat]


def _regions(region: NDArray[np.int64], carried: NDArray[np.int32], base: int) -> Regions:
    """Regions from the column lists they carry, with -1 and repetitions removed."""
    rows = np.repeat(np.arange(len(carried)), carried.shape[1])
    columns = carried.ravel()
    known = columns >= 0
    pairs = np.unique(rows[known] * base + columns[known])
    dtype = np.uint8 if len(carried) <= 256 else np.uint16 if len(carried) <= 65536 else np.uint32
    return Regions(region.astype(dtype), (pairs // base).astype(np.int32), (pairs % base).astype(np.int32))


class RegionBatch(NamedTuple):
    """The regions of some images, numbered through.

    Attributes:
        map: ``(n, h * w)`` int64, region of every pixel, numbered through over the images.
        start: ``(R + 1,)`` int64, where the concepts of each region start in
        concept: ``(E,)`` int64, columns.
    """

    map: Tensor
    start: Tensor
    concept: Tensor


def stack_regions(images: Sequence[Regions]) -> RegionBatch:
    """Number the regions of several images through, for one gather and one count over all of them."""
    counts = np.array([image.size for image in images], dtype=np.int64)
    offset = np.cumsum(counts) - counts
    maps = np.stack([image.map for image in images]).astype(np.int64) + offset[:, None]
    region = np.concatenate([image.region + o for image, o in zip(images, offset, strict=True)])
    start = np.concatenate([[0], np.cumsum(np.bincount(region, minlength=int(counts.sum())))])
    concept = np.concatenate([image.concept for image in images]).astype(np.int64)
    return RegionBatch(torch.from_numpy(maps), torch.from_numpy(start), torch.from_numpy(concept))


def concept_pixels(image: Regions, num_concepts: int) -> NDArray[np.int64]:
    """``(C,)`` int64, pixels of every concept in one image."""
    area = np.bincount(image.map, minlength=image.size)
    pixels = np.zeros(num_concepts, dtype=np.int64)
    np.add.at(pixels, image.concept, area[image.region])
    return pixels


def region_masks(labels: RegionBatch, concepts: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Where some concepts lie on the images of a batch.

    Args:
        labels: Regions of n images.
        concepts: K different columns, as ``labels.concept`` counts them.
        size: ``(h, w)`` of the mask grid.

    Returns:
        ``(n, K, h, w)`` bool.
    """
    regions = len(labels.start) - 1
    region = torch.arange(regions, device=labels.start.device).repeat_interleave(labels.start.diff())
    carries = [region[labels.concept == concept] for concept in concepts]
    table = torch.zeros(len(concepts), regions, dtype=torch.bool, device=region.device)
    for own, which in zip(table, carries, strict=True):
        own[which] = True
    return table[:, labels.map].transpose(0, 1).reshape(-1, len(concepts), *size)
