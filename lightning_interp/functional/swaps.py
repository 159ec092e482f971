"""Part swaps: another image's part or background pasted in, and who is whose donor."""

import math

import torch
from torch import Tensor

from lightning_interp.functional.fills import check_masks, fill, mean_colour

# Parts are turned only if both are long enough for a direction, by no more than heads tilt: else shapes differ, not
# poses. Elongation is (a - b) / (a + b) of the variances along the principal axes, 0 for a disc or square.
_MIN_ELONGATION = 0.5
_MAX_TURN = math.radians(30)
# Variance of a pixel's own extent along an axis, in square pixels.
_PIXEL_VARIANCE = 1 / 12


def paste(images: Tensor, masks: Tensor, donors: Tensor, donor_masks: Tensor) -> Tensor:
    """Paste the donors' part over the images' part: a counterfactual by intervention (this project's own definition).

    After the pasted mouth of Zhang, Wang, Zhu 2018 (Fig. 1), who did it by hand. The donor's part is taken by its mask;
    moved, scaled and turned (a similarity transform) so that centre, size (root mean square distance from the centre)
    and principal axis of the two regions agree; and cut to the image's region. What it does not cover of that gets
    its mean colour, so that nothing of the image's part is left and nothing but the part is taken. Colours are not
    matched to the image's skin: on trained networks that made answers follow the donor less, by 4 to 8 points of 82.

    Args:
        images: ``(B, C, H, W)`` float in [0, 1], before normalisation.
        masks: ``(B, H, W)`` bool, the part in the images.
        donors: ``(B, C, H, W)``, whose part to paste.
        donor_masks: ``(B, H, W)`` bool, the part in the donors.

    Returns:
        ``(B, C, H, W)``; pixels outside the image's region keep every bit. So does the whole image when it is its own
        donor, and when the region is empty in it or in the donor.

    Raises:
        ValueError: If a mask is not bool or not of the images' size.
    """
    check_masks(images, masks)
    check_masks(donors, donor_masks)
    own = donor_masks[:, None].to(donors.dtype)
    # Colours weighted by coverage, so that interpolation at the part's border brings in nothing from beyond it.
    warped = _sample(torch.cat([donors * own, own], dim=1), *_sources(masks, donor_masks))
    part, cover = warped[:, :-1], warped[:, -1:]
    new = part + (1 - cover) * mean_colour(donors, donor_masks)
    here = masks & donor_masks.flatten(1).any(1)[:, None, None]
    return torch.where(here[:, None], new, images)


def swap_background(images: Tensor, masks: Tensor, donors: Tensor, donor_masks: Tensor) -> Tensor:
    """Put the images' objects on the donors' backgrounds, as ImageNet-9's Mixed sets do (Xiao et al. 2021).

    Everything outside the mask is taken from the donor, pixel by pixel. Where the donor's own object was, its
    background's mean colour stands, so that the object is not carried along (the paper tiles background instead).

    Args:
        images: ``(B, C, H, W)`` float in [0, 1], before normalisation.
        masks: ``(B, H, W)`` bool, the object (or any region to keep) in the images.
        donors: ``(B, C, H, W)``: of the same label for Mixed-Same, any other image for Mixed-Rand.
        donor_masks: ``(B, H, W)`` bool, the object in the donors.

    Returns:
        ``(B, C, H, W)``; pixels of the object keep every bit.

    Raises:
        ValueError: If a mask is not bool or not of the images' size.
    """
    check_masks(images, masks)
    return torch.where(masks[:, None], images, fill(donors, donor_masks, "mean"))


def draw_donors(labels: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """For each image of a probe set, a donor with the same label and one with another, each drawn uniformly.

    They depend on the labels of the whole set and the seed alone: not on batches, shards or processes.

    Args:
        labels: ``(N,)`` integer, in the order of the probe set; negative where unknown.
        seed: Seed of the draw.

    Returns:
        ``(same, other)``, each ``(N,)`` int64 image numbers, never the image itself; -1 where there is no donor:
        no further image has the label, or none has another, or the label is unknown.

    Example:
        >>> draw_donors(torch.tensor([4, 7, 4, -1]))
        (tensor([ 2, -1,  0, -1]), tensor([ 1,  2,  1, -1]))
    """
    # Drawn on the processor in one go, so that an image's draw does not depend on what labels there are.
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(2, len(labels), generator=generator, dtype=torch.float64)
    labels = labels.cpu()
    same, other = torch.full((2, len(labels)), -1).unbind()
    for label in torch.unique(labels[labels >= 0]):
        own = (labels == label).nonzero()[:, 0]
        rest = ((labels >= 0) & (labels != label)).nonzero()[:, 0]
        if len(own) > 1:
            # One step or more, and less than a full turn, round the images of this label.
            steps = 1 + (draws[0, own] * (len(own) - 1)).long()
            same[own] = own[(torch.arange(len(own)) + steps) % len(own)]
        if len(rest):
            other[own] = rest[(draws[1, own] * len(rest)).long()]
    return same, other


def _sources(masks: Tensor, donor_masks: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the donor each pixel of the image comes from: x and y in pixels, each ``(B, H, W)`` float64."""
    centre, size, axis, long = _pose(masks)
    donor_centre, donor_size, donor_axis, donor_long = _pose(donor_masks)
    scale = donor_size / size
    # Axes have no head or tail: angles that differ by half a turn are the same.
    turn = torch.remainder(donor_axis - axis + math.pi / 2, math.pi) - math.pi / 2
    turn = torch.where(long & donor_long & (turn.abs() <= _MAX_TURN), turn, 0)
    # As steps from each pixel, which are exactly 0 for a part on itself.
    along = (scale * turn.cos() - 1)[:, None, None]
    across = (scale * turn.sin())[:, None, None]
    shift_x, shift_y = (donor_centre - centre)[:, :, None, None].unbind(1)
    x, y = _pixels(masks)
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    return x + (along * dx - across * dy + shift_x), y + (across * dx + along * dy + shift_y)


def _sample(layers: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear interpolation of ``(B, C, H, W)`` at ``(B, H, W)`` places, 0 beyond the border.

    Unlike ``grid_sample``, whose coordinates are shares of the image, it gives whole places back to the bit.
    """
    h, w = layers.shape[-2:]
    left, top = x.floor(), y.floor()
    total = torch.zeros_like(layers)
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            weight = torch.where(inside, weight_x * weight_y, 0).to(layers.dtype)
            place = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long().flatten(1)
            value = layers.flatten(2).gather(2, place[:, None].expand(-1, layers.shape[1], -1))
            total += weight[:, None] * value.view_as(layers)
    return total


def _pose(masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each region: centre ``(B, 2)``, size ``(B,)`` and principal axis ``(B,)`` (radians), and if it has one."""
    x, y = _pixels(masks)
    weight = masks.to(torch.float64) / masks.sum((1, 2), keepdim=True).clamp(min=1)
    cx, cy = (weight * x).sum((1, 2)), (weight * y).sum((1, 2))
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    xx, yy = ((weight * d**2).sum((1, 2)) + _PIXEL_VARIANCE for d in (dx, dy))
    xy = (weight * dx * dy).sum((1, 2))
    axis = torch.atan2(2 * xy, xx - yy) / 2
    elongation = ((xx - yy) ** 2 + 4 * xy**2).sqrt() / (xx + yy)
    return torch.stack([cx, cy], dim=1), (xx + yy).sqrt(), axis, elongation >= _MIN_ELONGATION


def _pixels(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Columns ``(1, W)`` and rows ``(H, 1)`` of every pixel, float64."""
    h, w = (torch.arange(size, device=masks.device, dtype=torch.float64) for size in masks.shape[-2:])
    return w[None], h[:, None]
