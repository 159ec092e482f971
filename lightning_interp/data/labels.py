"""Labels of a probe set, encoded once and kept for the epochs to come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError
from lightning_interp.functional.regions import (
    BadPlaneError,
    RegionBatch,
    Regions,
    UnknownLabelError,
    concept_lookup,
    concept_pixels,
    encode_regions,
    stack_regions,
)


@dataclass(frozen=True)
class LabelEncoder:
    """Turns the labels of one image into regions on the mask grid; picklable, for loader workers.

    Args:
        probe: The probe set.
        mask_size: ``(h, w)`` to count at; planes of another size are resampled by nearest pixel centre.
    """

    probe: ProbeSet
    mask_size: tuple[int, int]

    def __call__(self, index: int) -> Regions:
        """Regions of image ``index``.

        Raises:
            DatasetError: If a plane has the wrong size or type, or a number belongs to no concept.
        """
        labels = self.probe.labels(index)
        lookup = concept_lookup([concept.number for concept in self.probe.concepts])
        try:
            planes = {name: self._resample(name, plane) for name, plane in labels.planes.items()}
            return encode_regions(planes, labels.image, lookup, self.mask_size)
        except (UnknownLabelError, BadPlaneError) as error:
            raise DatasetError(f"image {index} of {type(self.probe).__name__}: {error}") from error

    def _resample(self, name: str, plane: Tensor) -> Tensor:
        size = self.probe.mask_size
        shape = tuple(getattr(plane, "shape", ()))
        if shape[-2:] != tuple(size):
            raise BadPlaneError(f"label plane '{name}' has shape {shape}, expected (h, w) = {tuple(size)}")
        if tuple(size) == tuple(self.mask_size):
            return plane
        rows, columns = (
            ((torch.arange(new) + 0.5) * old / new).long() for old, new in zip(size, self.mask_size, strict=True)
        )
        return plane[..., rows[:, None], columns]


class LabelBank:
    """Encoded labels by image: filled from the loader or on demand, then reused.

    Args:
        encoder: Reads and encodes one image.
        every_image_counts: Whether every image enters every unit's area (PNAS 2020); otherwise only those that
            carry a concept of the category (CVPR 2017).
    """

    def __init__(self, encoder: LabelEncoder, every_image_counts: bool) -> None:
        self.encoder = encoder
        probe = encoder.probe
        self._every = every_image_counts
        self._regions: dict[int, Regions] = {}
        self._pixels: dict[int, NDArray[np.int64]] = {}
        categories = probe.categories
        self._category = np.array([categories.index(c.category) for c in probe.concepts], dtype=np.int64)
        self._num_categories = len(categories)

    def __contains__(self, index: object) -> bool:
        """Whether image ``index`` is encoded already."""
        return index in self._regions

    def put(self, index: int, regions: Regions) -> None:
        """Keep the encoded labels of an image."""
        self._regions[index] = regions
        pixels = concept_pixels(regions, len(self._category))
        present = np.flatnonzero(pixels)
        self._pixels[index] = np.stack([present, pixels[present]])

    def ensure(self, indices: Iterable[int]) -> None:
        """Read and encode the images that are not there yet."""
        for index in indices:
            if index not in self:
                self.put(index, self.encoder(index))

    def batch(self, indices: Sequence[int]) -> RegionBatch:
        """Regions of several images, numbered through."""
        return stack_regions([self._regions[index] for index in indices])

    def members(self, indices: Sequence[int]) -> Tensor:
        """``(n, G)`` bool, which images count for which category."""
        members = np.full((len(indices), self._num_categories), self._every)
        for row, index in enumerate(indices):
            members[row, self._category[self._pixels[index][0]]] = True
        return torch.from_numpy(members)

    def concept_area(self, indices: Sequence[int]) -> Tensor:
        """``(C,)`` int64, pixels of every concept over the images."""
        area = np.zeros(len(self._category), dtype=np.int64)
        for index in indices:
            present, pixels = self._pixels[index]
            area[present] += pixels
        return torch.from_numpy(area)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """``(G,)`` int64, all mask pixels of the images that count for each category."""
        height, width = self.encoder.mask_size
        if not indices:
            return torch.zeros(self._num_categories, dtype=torch.int64)
        return self.members(indices).sum(0) * (height * width)
