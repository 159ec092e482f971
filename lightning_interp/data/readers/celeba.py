"""Readers of CelebA and CelebAMask-HQ in their published layouts; a part of either is enough."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.celeba_tables import (
    find_table,
    read_attributes,
    read_landmarks,
    read_mapping,
    read_split,
    require_table,
)
from lightning_interp.data.readers.files import MAX_PIXELS, Files, Kind, Normalize, Size
from lightning_interp.data.readers.group_csv import Split
from lightning_interp.data.readers.transform import Crop, JointPhotoSet
from lightning_interp.errors import DatasetError

# As torchvision has them, as Kaggle, group DRO and WILDS have them, and as the authors' download unpacks.
_IMAGE_FOLDERS = (
    "celeba/img_align_celeba",
    "img_align_celeba/img_align_celeba",
    "img_align_celeba",
    "Img/img_align_celeba",
)
_HQ_IMAGES, _HQ_MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
_HQ_MASK = Kind("a part mask (PNG)", ("PNG",), ("1", "L", "P", "RGB"))
_MASKS_A_FOLDER = 2000
# Part by file name, in the order in which the authors' g_mask.py paints one over another. l_ and r_ are swapped in a
# share of the images, so left and right are one; u_lip and l_lip are the upper and the lower lip.
_HQ_PARTS = {
    "skin": "skin",
    "nose": "nose",
    "eye_g": "eye_g",
    "l_eye": "eye",
    "r_eye": "eye",
    "l_brow": "brow",
    "r_brow": "brow",
    "l_ear": "ear",
    "r_ear": "ear",
    "mouth": "mouth",
    "u_lip": "u_lip",
    "l_lip": "l_lip",
    "hair": "hair",
    "hat": "hat",
    "ear_r": "ear_r",
    "neck_l": "neck_l",
    "neck": "neck",
    "cloth": "cloth",
}
_HQ_NUMBERS = {name: number for number, name in enumerate(dict.fromkeys(_HQ_PARTS.values()), start=1)}


class CelebA(JointPhotoSet):
    """CelebA's aligned faces with their attributes and landmarks, or any part of them.

    ::

        img_align_celeba/NNNNNN.jpg              178 x 218 pixels; only those that are there are used
        list_attr_celeba.txt                     the attributes
        list_landmarks_align_celeba.txt          optional: landmarks
        list_eval_partition.txt                  needed for split=

    The tables may be text (a line with a count, which is not relied on, the names, then rows between blanks) or CSV
    as on Kaggle (``image_id,...``), in the root, in ``celeba/`` as torchvision has them, or in ``Anno/`` and
    ``Eval/``; the photos likewise. No checksum is asked for, so a sample of the data opens. Bounding boxes are of
    the uncropped photos and are not read.

    ``facts(i)["attributes"]`` has the published names, such as ``"Wearing_Lipstick"``, with 1 for 1 and 0 for -1;
    ``facts(i)["landmarks"]`` is ``(5, 2)`` float32 in pixels of the scaled photo, absent where no row gives it.
    CelebA has no masks: as concepts, each attribute is one that holds for the whole photo, of category
    ``"attribute"``.

    Args:
        root: The folder.
        split: Only photos of this split; None for all.
        crop: What is kept around each photo's centre; ``(178, 178)`` is the usual square. Landmarks move along.
        size: ``(H, W)`` that photos are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` that units are dissected at.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel for photos in [0, 1], or None.
        max_pixels: Larger images are refused before they are decoded.
        verify: Check every image that is read against the SHA-256 in ``manifest.json``; see
            :func:`~lightning_interp.data.readers.files.write_manifest`.

    Raises:
        DatasetError: On construction, if the attributes, the photos or a table asked for are missing, a row has
            another number of cells than the header, stands twice, or holds what is no label or landmark, or a photo
            is not readable or leaves the root, naming file and line. On access, if a photo cannot be decoded.

    Reference:
        Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: Split | None = None,
        crop: Crop = None,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        files = Files.below(root, max_pixels, verify)
        folder = next((name for name in _IMAGE_FOLDERS if (files.root / name).is_dir()), None)
        if folder is None:
            raise DatasetError(f"{files.root}: no folder img_align_celeba")
        chosen = set(os.listdir(files.root / folder))
        if split is not None:
            chosen &= read_split(files, split)
        names, self._attributes = read_attributes(require_table(files, "list_attr_celeba"), chosen)
        super().__init__(
            files,
            [files.locate(name, folder) for name in self._attributes],
            [Concept(number, name, "attribute") for number, name in enumerate(names, start=1)],
            crop=crop,
            size=size,
            mask_size=mask_size,
            normalize=normalize,
        )
        self.split, self._names = split, tuple(self._attributes)
        landmarks = find_table(files, "list_landmarks_align_celeba")
        stored = dict(zip(self._names, self.stored_sizes, strict=True))
        self._landmarks = {} if landmarks is None else read_landmarks(landmarks, stored)

    def labels(self, index: int) -> Labels:
        """Attributes of image ``index`` that are 1, as image-level labels."""
        # The concepts are numbered from 1 in the order of the columns.
        values = enumerate(self._attributes[self._names[index]], start=1)
        return Labels(image={"attribute": [number for number, value in values if value]})

    def facts(self, index: int) -> Mapping[str, Any]:
        """``"attributes"``: name to 0 or 1; ``"landmarks"``: ``(5, 2)`` float32, if known."""
        name = self._names[index]
        values = zip(self.concepts, self._attributes[name], strict=True)
        facts: dict[str, Any] = {"attributes": {concept.name: value for concept, value in values}}
        if name in self._landmarks:
            facts["landmarks"] = self.transform.landmarks(self._landmarks[name], self.stored_sizes[index])
        return facts

    def describe(self) -> dict[str, Any]:
        """What identifies the set, the split included."""
        return super().describe() | {"split": self.split}


class CelebAMaskHQ(JointPhotoSet):
    """CelebAMask-HQ's faces with their part masks, or any part of them.

    ::

        CelebA-HQ-img/N.jpg                              1024 x 1024 pixels
        CelebAMask-HQ-mask-anno/{N // 2000}/NNNNN_{part}.png     512 x 512 pixels, one file a part
        CelebAMask-HQ-attribute-anno.txt                 optional: CelebA's 40 attributes
        CelebA-HQ-to-CelebA-mapping.txt                  optional: which photo of CelebA each is; needed for split=
        list_eval_partition.txt                          CelebA's, needed for split=

    Photos that are there and have at least one mask are used, in the order of their numbers. The masks are painted
    over one another in the authors' order, so that a pixel has one part; left and right eyes, brows and ears are
    merged, since the published masks swap them in a share of the images. Masks and photo go through one transform.

    The concepts are the parts, of category ``"part"``, by their published names without ``l_`` and ``r_``
    (``"u_lip"`` and ``"l_lip"`` are the upper and the lower lip, ``"ear_r"`` an earring, ``"neck_l"`` a necklace).
    ``facts(i)["attributes"]`` has the published names, such as ``"Wearing_Lipstick"``, with 1 for 1 and 0 for -1;
    ``facts(i)["celeba"]`` is the name of the photo in CelebA. Both are absent where no row gives them.

    Args:
        root: The folder.
        split: Only photos that are of this split in CelebA; None for all.
        crop: What is kept around each photo's centre, in its pixels or as a share. Masks move along.
        size: As for :class:`CelebA`; likewise the others.
        mask_size: ``(h, w)`` that masks are scaled to (nearest).
        normalize: See above.
        max_pixels: See above.
        verify: See above.

    Raises:
        DatasetError: As :class:`CelebA`; also if no photo has a mask, or a mask's shape is not that of the photo.

    Reference:
        Lee et al., MaskGAN, CVPR 2020.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: Split | None = None,
        crop: Crop = None,
        size: Size = (224, 224),
        mask_size: Size = (112, 112),
        normalize: Normalize = "imagenet",
        max_pixels: int = MAX_PIXELS,
        verify: bool = False,
    ) -> None:
        files = Files.below(root, max_pixels, verify)
        mapping = (find_table if split is None else require_table)(files, "CelebA-HQ-to-CelebA-mapping")
        self.split, self._originals = split, {} if mapping is None else read_mapping(mapping)
        masks = _hq_masks(files)
        if split is not None:
            members = read_split(files, split)
            masks = {name: own for name, own in masks.items() if self._originals.get(name) in members}
        super().__init__(
            files,
            [files.locate(name, _HQ_IMAGES) for name in masks],
            [Concept(number, name, "part") for name, number in _HQ_NUMBERS.items()],
            crop=crop,
            size=size,
            mask_size=mask_size,
            normalize=normalize,
        )
        self._names, self._masks = tuple(masks), tuple(masks.values())
        self._mask_sizes = [
            _mask_size(files, own[0][1], stored) for own, stored in zip(self._masks, self.stored_sizes, strict=True)
        ]
        attributes = find_table(files, "CelebAMask-HQ-attribute-anno")
        self._columns, self._attributes = ((), {}) if attributes is None else read_attributes(attributes, masks)

    def labels(self, index: int) -> Labels:
        """The part plane of image ``index``, ``(h, w)`` int32.

        Raises:
            DatasetError: If a mask cannot be decoded or has another size than the first of its photo.
        """
        size = self._mask_sizes[index]
        plane = np.zeros(size, dtype=np.int32)
        for number, name in self._masks[index]:
            plane[self.files.mask(name, _HQ_MASK, size).reshape(*size, -1).any(axis=2)] = number
        return Labels({"part": self.plane(torch.from_numpy(plane), index)})

    def facts(self, index: int) -> Mapping[str, Any]:
        """``"attributes"``: name to 0 or 1; ``"celeba"``: name of the photo in CelebA; each if known."""
        name, facts = self._names[index], dict[str, Any]()
        if name in self._attributes:
            facts["attributes"] = dict(zip(self._columns, self._attributes[name], strict=True))
        if name in self._originals:
            facts["celeba"] = self._originals[name]
        return facts

    def describe(self) -> dict[str, Any]:
        """What identifies the set, the split included."""
        return super().describe() | {"split": self.split}


def _hq_masks(files: Files) -> dict[str, list[tuple[int, str]]]:
    """By photo that is there, in the order of their numbers, ``(concept number, file)`` of its masks as painted."""
    try:
        photos = [Path(name) for name in os.listdir(files.root / _HQ_IMAGES)]
    except OSError as error:
        raise DatasetError(f"{files.root / _HQ_IMAGES}: {error.strerror or error}") from error
    numbers = [int(p.stem) for p in photos if p.suffix == ".jpg" and p.stem.isascii() and p.stem.isdigit()]
    masks = {}
    for number in sorted(numbers):
        folder = f"{_HQ_MASKS}/{number // _MASKS_A_FOLDER}"
        own = [
            (_HQ_NUMBERS[part], files.locate(f"{number:05d}_{file}.png", folder))
            for file, part in _HQ_PARTS.items()
            if os.path.lexists(files.root / folder / f"{number:05d}_{file}.png")
        ]
        if own:
            masks[f"{number}.jpg"] = own
    if not masks:
        raise DatasetError(f"{files.root}: no photo of {_HQ_IMAGES} has a mask in {_HQ_MASKS}")
    return masks


def _mask_size(files: Files, name: str, photo: Size) -> Size:
    """``(h, w)`` of a mask, after its shape was seen to be that of the photo."""
    size = files.size(name, _HQ_MASK)
    if size[0] * photo[1] != size[1] * photo[0]:
        raise DatasetError(f"{files.root / name}: size {size} (h, w), which has not the shape of a photo of {photo}")
    return size
