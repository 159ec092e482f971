"""Photos of one object each, cut out and scaled, with landmarks of its parts: what the part data have in common."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interp.data.landmarks import Point
from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.files import PHOTO, Files, Normalize, PhotoSet, Size
from lightning_interp.data.readers.transform import JointTransform
from lightning_interp.errors import DatasetError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in continuous pixels: ``(0, 0)`` is the top left corner of the top left pixel."""


@dataclass(frozen=True)
class PartObject:
    """One object of a photo.

    Args:
        photo: Name of the photo, as :meth:`Files.locate` gives it.
        category: Position of its class among the classes.
        box: The object's box, whole pixels; None for the whole photo.
        landmarks: By part, x and y in pixels of the photo, whole numbers being centres of pixels.
        part_boxes: Number of the concept and box of every part, where the data have boxes.
    """

    photo: str
    category: int
    box: tuple[int, int, int, int] | None
    landmarks: Mapping[str, Point]
    part_boxes: Sequence[tuple[int, Box]] = ()


@dataclass(frozen=True)
class ObjectCrop(JointTransform):
    """The joint transform that keeps a box anywhere in the photo, and takes any number of landmarks.

    Args:
        kept: ``(top, left, height, width)`` of the box, in pixels of the photo; None for all of it.
    """

    kept: tuple[int, int, int, int] | None = None

    def box(self, stored: Size) -> tuple[int, int, int, int]:
        """``(top, left, height, width)`` of what is kept of a photo of that ``(h, w)``."""
        return self.kept or (0, 0, *stored)

    def landmarks(self, landmarks: Tensor, stored: Size) -> Tensor:
        """``(N, 2)`` x and y in pixels of the photo, as float64 in pixels of the result; some may lie outside."""
        top, left, height, width = self.box(stored)
        scale = torch.tensor([self.size[1] / width, self.size[0] / height], dtype=torch.float64)
        return (landmarks.double() - torch.tensor([left, top]) + 0.5) * scale - 0.5


class PartPhotos(PhotoSet):
    """Base of the probe sets of photos with landmarks of parts, as instability and part scores need them.

    An item is one object. With a box it is cut out and scaled to ``size``, a square by default, without keeping its
    proportions, as Zhang, Wu and Zhu (CVPR 2018) and their code do; landmarks and label planes move along.

    ``facts(i)["attributes"]["category"]`` is the position of the object's class in ``classes``, and
    ``facts(i)["part_landmarks"]`` has the parts that are in the picture, by name, as ``(x, y)`` in its pixels; see
    :func:`~lightning_interp.data.landmarks.part_landmarks`. The class is also a concept of category
    ``"object"`` for the whole image.

    Args:
        files: The folder.
        objects: Every object, in order.
        classes: Names of the classes.
        parts: Names of the concepts of category ``"part"``, numbered from 1; the classes are numbered after them.
        size: ``(H, W)`` that objects are scaled to (bilinear, antialiased).
        mask_size: ``(h, w)`` of the label planes.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel, or None.

    Attributes:
        classes: Names of the classes.
        landmark_names: Names of the parts that have a landmark in some image, sorted.

    Raises:
        DatasetError: If there is no object, or a photo is not readable or has nothing of a box.
    """

    def __init__(
        self,
        files: Files,
        objects: Sequence[PartObject],
        classes: Sequence[str],
        parts: Sequence[str],
        *,
        size: Size,
        mask_size: Size,
        normalize: Normalize,
    ) -> None:
        names = [*((part, "part") for part in parts), *((name, "object") for name in classes)]
        concepts = [Concept(number, *name) for number, name in enumerate(names, start=1)]
        photos = [each.photo for each in objects]
        super().__init__(files, photos, concepts, size=size, mask_size=mask_size, normalize=normalize)
        self.objects, self.classes = tuple(objects), tuple(classes)
        self.landmark_names = tuple(sorted({name for each in objects for name in each.landmarks}))
        self._first_class = 1 + len(parts)
        sizes = {photo: files.size(photo, PHOTO) for photo in dict.fromkeys(photos)}
        self.stored_sizes = tuple(sizes[photo] for photo in photos)
        self.crops = tuple(
            ObjectCrop(size, kept=self._kept(each, stored))
            for each, stored in zip(self.objects, self.stored_sizes, strict=True)
        )

    def _kept(self, each: PartObject, stored: Size) -> tuple[int, int, int, int] | None:
        """``(top, left, height, width)`` of the box within the photo."""
        if each.box is None:
            return None
        left, top = (max(side, 0) for side in each.box[:2])
        right, bottom = min(each.box[2], stored[1]), min(each.box[3], stored[0])
        if right <= left or bottom <= top:
            raise DatasetError(f"{self.files.root / each.photo}: the box {each.box} has no pixel of {stored} (h, w)")
        return top, left, bottom - top, right - left

    def image(self, index: int) -> Tensor:
        """Object ``index``, ``(3, H, W)`` uint8.

        Raises:
            DatasetError: If its photo cannot be decoded.
        """
        return self.crops[index].image(self.files.photo(self.photos[index], None))

    def labels(self, index: int) -> Labels:
        """The class, as an image-level label; and of parts with boxes a plane each, ``(P, h, w)`` int32."""
        planes = [self._filled(index, number, box) for number, box in self.objects[index].part_boxes]
        return Labels({"part": torch.stack(planes)} if planes else {}, self._class_label(index))

    def _class_label(self, index: int) -> dict[str, tuple[int]]:
        return {"object": (self._first_class + self.objects[index].category,)}

    def _filled(self, index: int, number: int, box: Box) -> Tensor:
        """The plane that has ``number`` at the pixels whose centres are in the box."""
        top, left, height, width = self.crops[index].box(self.stored_sizes[index])
        rows, columns = self.mask_size
        y = (torch.arange(rows, dtype=torch.float64)[:, None] + 0.5) * (height / rows) + top
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) * (width / columns) + left
        return number * ((box[0] <= x) & (x < box[2]) & (box[1] <= y) & (y < box[3])).int()

    def facts(self, index: int) -> Mapping[str, Any]:
        """``"attributes"``: the category; ``"part_landmarks"``: by part, x and y in pixels of the image."""
        each = self.objects[index]
        points = torch.tensor(list(each.landmarks.values()), dtype=torch.float64).reshape(-1, 2)
        moved = self.crops[index].landmarks(points, self.stored_sizes[index]).tolist()
        height, width = self.crops[index].size
        landmarks = {
            name: (x, y)
            for name, (x, y) in zip(each.landmarks, moved, strict=True)
            if -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5
        }
        return {"attributes": {"category": each.category}, "part_landmarks": landmarks}

    def describe(self) -> dict[str, Any]:
        """What identifies the set, a digest of boxes and landmarks included."""
        digest = hashlib.sha256(repr(self.objects).encode(errors="surrogateescape")).hexdigest()
        return super().describe() | {"objects": digest}
