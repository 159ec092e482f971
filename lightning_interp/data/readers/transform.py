"""One geometric transform for a photo, its masks and its landmarks, so that they can never disagree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.files import PHOTO, Files, Normalize, PhotoSet, Size
from lightning_interp.errors import DatasetError

Crop = Size | float | None

# A mirrored left eye is a right eye: CelebA's order is left eye, right eye, nose, left and right mouth corner.
_MIRRORED = [1, 0, 2, 4, 3]


@dataclass(frozen=True)
class JointTransform:
    """Centre crop, then scaling, then mirroring: the same map for photo, masks and landmarks.

    A mask may have another resolution than its photo: it is sampled at the centres of the new pixels, once, by the
    nearest stored value. Landmarks are moved with the centres of pixels at whole coordinates. torchvision does the
    photo. Its ``tv_tensors`` do not fit the rest: a ``Mask`` is sampled at the corners of pixels, ``KeyPoints`` are
    mirrored as if whole coordinates were centres of pixels and scaled as if they were corners, which puts both up
    to half a pixel beside the photo, left does not become right, and older torchvision has no ``KeyPoints``.

    Args:
        size: ``(H, W)`` of the result.
        crop: What is kept around the photo's centre before scaling: ``(h, w)`` in pixels of the photo, a share
            of each side in (0, 1], or None for all of it.
        flip: Whether to mirror left and right; left landmarks become right ones.

    Raises:
        DatasetError: If the size or the crop is out of range; on use, if the crop is larger than the photo.

    Example:
        >>> halve = JointTransform((2, 2), crop=(4, 4), flip=True)
        >>> points = torch.tensor([[2.0, 0], [5, 0], [3, 2], [2, 3], [5, 3]])
        >>> image, masks, points = halve(torch.zeros(3, 4, 8), torch.ones(1, 4, 8), points)
        >>> image.shape, masks.shape, points[:2].tolist()
        (torch.Size([3, 2, 2]), torch.Size([1, 2, 2]), [[-0.25, -0.25], [1.25, -0.25]])
    """

    size: Size
    crop: Crop = None
    flip: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.crop, float | int):
            fits = 0 < self.crop <= 1
        else:
            fits = self.crop is None or (len(self.crop) == 2 and min(self.crop) >= 1)
        if not fits or len(self.size) != 2 or min(self.size) < 1:
            raise DatasetError(
                f"give size=(height, width) and crop=(height, width), a share in (0, 1] or None, "
                f"not {self.size!r} and {self.crop!r}"
            )

    def __call__(
        self, image: Tensor, masks: Tensor | None = None, landmarks: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A photo ``(C, h, w)`` with its masks ``(..., h', w')`` and landmarks ``(5, 2)``, where it has some."""
        stored = image.shape[-2], image.shape[-1]
        return (
            self.image(image),
            None if masks is None else self.masks(masks, stored),
            None if landmarks is None else self.landmarks(landmarks, stored),
        )

    def box(self, stored: Size) -> tuple[int, int, int, int]:
        """``(top, left, height, width)`` of what is kept of a photo of that ``(h, w)``, in its pixels."""
        if isinstance(self.crop, float | int):
            height, width = (max(1, round(self.crop * side)) for side in stored)
        else:
            height, width = self.crop or stored
        if height > stored[0] or width > stored[1]:
            raise DatasetError(f"crop={self.crop!r} is larger than a photo of {tuple(stored)} (h, w)")
        # Halves are rounded as v2.CenterCrop does, so that the probe sees what a network was trained on.
        return round((stored[0] - height) / 2), round((stored[1] - width) / 2), height, width

    def image(self, image: Tensor) -> Tensor:
        """A photo ``(C, h, w)``, uint8 or float, as ``(C, H, W)`` of the same type (bilinear, antialiased)."""
        stored = image.shape[-2], image.shape[-1]
        scaled: Tensor = v2.functional.resized_crop(image, *self.box(stored), size=list(self.size), antialias=True)
        return scaled.flip(-1) if self.flip else scaled

    def masks(self, masks: Tensor, stored: Size, size: Size | None = None) -> Tensor:
        """Masks or label planes of a photo.

        Args:
            masks: ``(..., h', w')`` of any type, covering the whole photo at any resolution.
            stored: ``(h, w)`` of the photo.
            size: ``(H, W)`` of the result; None for that of the photo.

        Returns:
            ``(..., H, W)`` of the same type.
        """
        top, left, height, width = self.box(stored)
        rows, columns = (
            # Centre of new pixel i, first + (i + 1/2) kept / new, on the mask's grid; whole numbers, so it is exact.
            ((2 * new * first + (2 * torch.arange(new) + 1) * kept) * side) // (2 * new * whole)
            for new, first, kept, side, whole in zip(
                size or self.size, (top, left), (height, width), masks.shape[-2:], stored, strict=True
            )
        )
        taken = masks[..., rows[:, None].to(masks.device), columns.to(masks.device)]
        return taken.flip(-1) if self.flip else taken

    def landmarks(self, landmarks: Tensor, stored: Size) -> Tensor:
        """Landmarks of a photo in CelebA's order; those that the crop cuts off lie outside the result.

        Args:
            landmarks: ``(5, 2)``, x and y in pixels of the photo.
            stored: ``(h, w)`` of the photo.

        Returns:
            ``(5, 2)`` float32, in pixels of the result, left being left in the picture.

        Raises:
            DatasetError: If the shape is another.
        """
        if landmarks.shape != (5, 2):
            raise DatasetError(f"landmarks must be (5, 2), x and y in CelebA's order, not {tuple(landmarks.shape)}")
        top, left, height, width = self.box(stored)
        scale = torch.tensor([self.size[1] / width, self.size[0] / height], dtype=torch.float64)
        moved = (landmarks - torch.tensor([left, top]) + 0.5) * scale - 0.5
        if self.flip:
            moved = torch.stack([self.size[1] - 1 - moved[:, 0], moved[:, 1]], dim=1)[_MIRRORED]
        return moved.float()


class JointPhotoSet(PhotoSet):
    """Base of the probe sets whose photos, masks and landmarks go through one :class:`JointTransform`.

    Args:
        files: The folder.
        photos: Name of each photo, as :meth:`Files.locate` gives it.
        concepts: Every label.
        crop: What is kept of each photo, as for :class:`JointTransform`.
        size: ``(H, W)`` to scale photos to.
        mask_size: ``(h, w)`` of the label planes.
        normalize: ``"imagenet"``, ``(mean, std)`` by channel, or None.

    Raises:
        DatasetError: If there is no photo, or one is not readable as a photo or smaller than the crop.
    """

    def __init__(
        self,
        files: Files,
        photos: Sequence[str],
        concepts: Sequence[Concept],
        *,
        crop: Crop,
        size: Size,
        mask_size: Size,
        normalize: Normalize,
    ) -> None:
        super().__init__(files, photos, concepts, size=size, mask_size=mask_size, normalize=normalize)
        self.transform = JointTransform(size, crop)
        self.stored_sizes = tuple(files.size(photo, PHOTO) for photo in self.photos)
        for photo, stored in zip(self.photos, self.stored_sizes, strict=True):
            try:
                self.transform.box(stored)
            except DatasetError as error:
                raise DatasetError(f"{files.root / photo}: {error}") from error

    def image(self, index: int) -> Tensor:
        """Photo ``index``, ``(3, H, W)`` uint8.

        Raises:
            DatasetError: If it cannot be decoded.
        """
        return self.transform.image(self.files.photo(self.photos[index], None))

    def plane(self, numbers: Tensor, index: int) -> Tensor:
        """A stored label plane ``(h', w')`` of photo ``index`` as ``(h, w)`` of the same type."""
        return self.transform.masks(numbers, self.stored_sizes[index], self.mask_size)

    def describe(self) -> dict[str, Any]:
        """What identifies the set, the crop included."""
        return super().describe() | {"crop": self.transform.crop}
