"""Probe sets around torchvision data sets that have masks: Pascal VOC and the Oxford-IIIT pets."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torchvision.datasets import OxfordIIITPet, VOCSegmentation

from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.files import (
    INDEX_MASK,
    MAX_PIXELS,
    PHOTO,
    Files,
    Normalize,
    PhotoSet,
    Size,
    nearest,
    number_table,
    translate,
)

# fmt: off
_VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


class _MaskedPhotos(PhotoSet):
    """Photos with one index mask each, all of whose numbers are objects.

    Args:
        root: The folder that all files have to be in.
        photos: Paths of the photos.
        masks: Paths of their masks.
        concepts: Every label.
        numbers: Concept number by value in a mask, 0 for unlabelled.
        size: As for the subclasses; likewise the others.
    """

    def __init__(
        self,
        root: str | Path,
        photos: Sequence[str | Path],
        masks: Sequence[str | Path],
        concepts: Sequence[Concept],
        numbers: Mapping[int, int],
        *,
        size: Size,
        mask_size: Size,
        normalize: Normalize,
        max_pixels: int,
    ) -> None:
        files = Files.below(root, max_pixels)
        names = [files.locate(os.path.relpath(photo, root)) for photo in photos]
        super().__init__(files, names, concepts, size=size, mask_size=mask_size, normalize=normalize)
        self._masks = [files.locate(os.path.relpath(mask, root)) for mask in masks]
        self._sizes = [files.size(name, PHOTO) for name in names]
        for name, photo_size in zip(self._masks, self._sizes, strict=True):
            files.check_size(name, INDEX_MASK, photo_size)
        self._table = number_table(numbers)

    def labels(self, index: int) -> Labels:
        """The object plane of image ``index``, ``(h, w)`` int32.

        Raises:
            DatasetError: If the mask cannot be decoded or has an undeclared value.
        """
        name = self._masks[index]
        stored = self.files.mask(name, INDEX_MASK, self._sizes[index])
        numbers = translate(stored, self._table, self.files.root / name)
        return Labels({"object": torch.from_numpy(nearest(numbers, self.mask_size))})


class VOCProbe(_MaskedPhotos):
    """Pascal VOC's segmented photos with their 20 objects, numbered 1 to 20 as in the masks.

    Background (0) and the border that VOC leaves open (255) count as unlabelled.

    Args:
        dataset: ``torchvision.datasets.VOCSegmentation``; its files are read, its transforms are not used.
        size: ``(H, W)`` that photos are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` that masks are scaled to (nearest).
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        DatasetError: On construction, if a file is missing, of the wrong kind or size, or leaves the data
            set's root; on access, if one cannot be decoded.
    """

    def __init__(
        self,
        dataset: VOCSegmentation,
        *,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        concepts = [Concept(number, name, "object") for number, name in enumerate(_VOC_NAMES, start=1)]
        super().__init__(
            dataset.root,
            dataset.images,
            dataset.masks,
            concepts,
            {255: 0} | {concept.number: concept.number for concept in concepts},
            size=size,
            mask_size=mask_size,
            normalize=normalize,
            max_pixels=max_pixels,
        )


class PetProbe(_MaskedPhotos):
    """The Oxford-IIIT pets: the animal's outline as an object; species and breed as image-level labels.

    Number 1 is ``pet``, then come the species (category ``species``) and the breeds (category ``breed``) in
    the order of the data set. Of the trimap, background (2) and the undecided border (3) count as unlabelled.

    Args:
        dataset: ``torchvision.datasets.OxfordIIITPet``; its files are read, whatever its target types, and
            its transforms are not used.
        size: ``(H, W)`` that photos are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` that masks are scaled to (nearest).
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        DatasetError: As :class:`VOCProbe`.
    """

    def __init__(
        self,
        dataset: OxfordIIITPet,
        *,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        named = [("pet", "object")]
        named += [(name.lower(), "species") for name in dataset.bin_classes]
        named += [(name, "breed") for name in dataset.classes]
        # torchvision has no public list of these files, and its items come decoded, without a limit of size.
        super().__init__(
            dataset.root,
            dataset._images,
            dataset._segs,
            [Concept(number, *names) for number, names in enumerate(named, start=1)],
            {1: 1, 2: 0, 3: 0},
            size=size,
            mask_size=mask_size,
            normalize=normalize,
            max_pixels=max_pixels,
        )
        first_breed = 2 + len(dataset.bin_classes)
        self._kinds = [
            (2 + species, first_breed + breed)
            for species, breed in zip(dataset._bin_labels, dataset._labels, strict=True)
        ]

    def labels(self, index: int) -> Labels:
        """The animal's plane, ``(h, w)`` int32, and its species and breed for the whole image.

        Raises:
            DatasetError: As :class:`VOCProbe`.
        """
        species, breed = self._kinds[index]
        return Labels(super().labels(index).planes, {"species": (species,), "breed": (breed,)})
