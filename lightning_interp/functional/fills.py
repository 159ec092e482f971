"""Fills of image regions: what an occluded part is replaced by, with nothing of it left where that is possible."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

Fill = Literal["mean", "skin", "grey", "blur"]
FILLS: tuple[Fill, ...] = get_args(Fill)

_GREY = 0.5
# Width of the ring around a region whose colour stands for its surroundings, as a share of the longer side.
_RING = 0.03


def fill(images: Tensor, masks: Tensor, how: Fill, surround: Tensor | None = None) -> Tensor:
    """Replace a region of each image: occlusion (Zeiler & Fergus 2014).

    Which fill to trust is a matter of what it erases and how odd it looks to the network:

    - ``"mean"``: the mean colour of the image's other pixels. Nothing of the region is left.
    - ``"skin"``: the mean colour of ``surround``, or of a ring around the region, 3 % of the longer side wide, in
      images where that is not known. Nothing of the region is left, and of faces it is the least odd.
    - ``"grey"``: 0.5. Nothing is left, of the region or of its surroundings.
    - ``"blur"``: a Gaussian blur whose standard deviation is the square root of the region's area. It is the only
      one that keeps some of the region: of a square one's own colour, 15 % at its centre and more in a long one.

    A fill by the region's own mean colour is not among them: it would keep the very colour (lipstick) that it is to
    take away. Each image is filled by itself, whatever the batch.

    Args:
        images: ``(B, C, H, W)`` float in [0, 1], before normalisation.
        masks: ``(B, H, W)`` bool, the regions; where one is empty the image stays as it is, where it is full
            ``"mean"`` and ``"skin"`` are grey.
        how: One of :data:`FILLS`.
        surround: ``(B, H, W)`` bool, pixels whose colour should replace the region under ``"skin"``; those in the
            region do not count.

    Returns:
        ``(B, C, H, W)``; pixels outside the mask keep every bit.

    Raises:
        ValueError: If ``how`` is unknown, or a mask is not bool or not of the images' size.

    Example:
        >>> mask = torch.tensor([[[True, False]]])
        >>> fill(torch.tensor([[[[0.9, 0.2]]]]), mask, "mean").flatten().tolist()
        [0.20000000298023224, 0.20000000298023224]
    """
    check_masks(images, masks)
    if how == "mean":
        new = mean_colour(images, ~masks)
    elif how == "skin":
        new = mean_colour(images, _surroundings(images, masks, surround))
    elif how == "grey":
        new = torch.full_like(images[:, :, :1, :1], _GREY)
    elif how == "blur":
        new = _blur(images, masks)
    else:
        raise ValueError(f"unknown fill {how!r}; there are {', '.join(FILLS)}")
    return torch.where(masks[:, None], new, images)


def noise(images: Tensor, masks: Tensor, sigma: float, seeds: Sequence[int]) -> Tensor:
    """Add Gaussian noise to a region of each image, as relative foreground sensitivity does (Moayeri et al. 2022).

    Args:
        images: ``(B, C, H, W)`` float in [0, 1], before normalisation.
        masks: ``(B, H, W)`` bool, the regions.
        sigma: Standard deviation, in units of the images, at least 0.
        seeds: B numbers of at least 0, such as the images' indices: the noise of an image depends on its seed and
            size alone, not on the batch, the device or any global generator.

    Returns:
        ``(B, C, H, W)``, clamped to [0, 1] in the region; pixels outside it keep every bit.

    Raises:
        ValueError: If there are more or fewer seeds than images, or a mask is not bool or not of the images' size.
    """
    check_masks(images, masks)
    if len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images")
    new = images.clone()
    for row, seed in enumerate(seeds):
        grain = np.random.default_rng(seed).standard_normal(tuple(images.shape[1:]), dtype=np.float32)
        new[row] += sigma * torch.from_numpy(grain).to(images)
    return torch.where(masks[:, None], new.clamp(0, 1), images)


def dilate(masks: Tensor, pixels: int) -> Tensor:
    """Grow regions by a number of pixels in every direction, diagonals included.

    Args:
        masks: ``(B, H, W)`` bool.
        pixels: At least 0.

    Returns:
        ``(B, H, W)`` bool.
    """
    grown = max_pool2d(masks[:, None].float(), 2 * pixels + 1, stride=1, padding=pixels)
    return grown[:, 0] > 0


def ring(masks: Tensor) -> Tensor:
    """The pixels around each region, 3 % of the image's longer side wide and at least one.

    Args:
        masks: ``(B, H, W)`` bool.

    Returns:
        ``(B, H, W)`` bool, without the region itself.
    """
    return dilate(masks, max(1, round(_RING * max(masks.shape[-2:])))) & ~masks


def mean_colour(images: Tensor, masks: Tensor) -> Tensor:
    """Mean colour of a region of each image.

    Args:
        images: ``(B, C, H, W)`` float.
        masks: ``(B, H, W)`` bool.

    Returns:
        ``(B, C, 1, 1)`` of the images' dtype; grey (0.5) where the region is empty.
    """
    count = masks.sum((1, 2))[:, None, None, None]
    total = torch.where(masks[:, None], images, 0).sum((2, 3), keepdim=True)
    return torch.where(count > 0, total / count.clamp(min=1), _GREY)


def check_masks(images: Tensor, masks: Tensor) -> None:
    """Raise a ``ValueError`` unless ``masks`` are bool, one for each image and of its size."""
    expected = (len(images), *images.shape[-2:])
    if masks.dtype != torch.bool or tuple(masks.shape) != expected:
        raise ValueError(f"masks must be bool of shape {expected}, not {masks.dtype} of {tuple(masks.shape)}")


def _surroundings(images: Tensor, masks: Tensor, surround: Tensor | None) -> Tensor:
    """``(B, H, W)`` bool: ``surround`` without the region, the ring where that leaves nothing."""
    around = ring(masks)
    if surround is None:
        return around
    check_masks(images, surround)
    known = surround & ~masks
    return torch.where(known.flatten(1).any(1)[:, None, None], known, around)


def _blur(images: Tensor, masks: Tensor) -> Tensor:
    # Weights of pixels beyond the border are shared out among the others, so that borders do not darken.
    sigma = masks.sum((1, 2)).clamp(min=1).to(images.dtype).sqrt()
    rows, columns = (_gaussian(sigma, size) for size in images.shape[-2:])
    return rows[:, None] @ images @ columns[:, None].mT


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """``(B, size, size)``: row i holds the weights of every pixel for the blurred pixel i; they sum to 1."""
    at = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    distance = (at[:, None] - at) / sigma[:, None, None]
    return torch.softmax(-(distance**2) / 2, dim=-1)
