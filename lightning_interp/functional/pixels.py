"""Network Dissection's counts: active pixels of units against the pixels of concepts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.functional.regions import RegionBatch
from lightning_interp.functional.upsampling import Cells, Grid, upsample_cells


def active_pixels(cells: Cells, thresholds: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels whose upsampled activation is above the threshold of their unit.

    Args:
        cells: Cells that can hold such pixels (:func:`~lightning_interp.functional.upsampling.hot_cells`).
        thresholds: ``(U,)`` float64, T_k.
        grid: The map's place on the mask grid.

    Returns:
        ``(image, unit, pixel)``, each ``(P,)`` int64, of S_k(x, p) > T_k; ``>`` as in every published code,
        where the paper prints ``>=``.
    """
    patches = upsample_cells(cells, grid)
    hit = (patches.values > thresholds[cells.unit][:, None, None]).flatten().nonzero()[:, 0]
    which = hit // (patches.pixel.shape[1] * patches.pixel.shape[2])
    # index_select: several times faster than indexing with brackets, here and below.
    image, unit = (part.index_select(0, which) for part in (cells.image, cells.unit))
    return image, unit, patches.pixel.flatten().index_select(0, hit)


def add_concepts(counts: Tensor, row: Tensor, unit: Tensor, pixel: Tensor, labels: RegionBatch) -> Tensor:
    """I: add active pixels to the counts of every unit on every concept.

    Args:
        counts: ``(U, C)`` int64, contiguous; changed in place.
        row: ``(P,)`` int64, the image, as a row of ``labels.map``.
        unit: ``(P,)`` int64.
        pixel: ``(P,)`` int64, mask pixel number.
        labels: Regions of the images.

    Returns:
        ``counts``.
    """
    region = labels.map.flatten().index_select(0, row * labels.map.shape[1] + pixel)
    entry, last = labels.start.index_select(0, region), labels.start.index_select(0, region + 1)
    unit = unit * counts.shape[1]
    one = torch.ones((), dtype=torch.int64, device=counts.device)
    # The regions' first concepts, then the second concepts of those that have two, and so on.
    while len(left := (entry < last).nonzero()[:, 0]):
        unit, entry, last = (part.index_select(0, left) for part in (unit, entry, last))
        place = unit + labels.concept.index_select(0, entry)
        counts.view(-1).index_add_(0, place, one.expand(len(place)))
        entry = entry + 1
    return counts


def add_areas(areas: Tensor, row: Tensor, unit: Tensor, members: Tensor) -> Tensor:
    """A: add active pixels to the areas of every unit, on the images that count for each category.

    Args:
        areas: ``(U, G)`` int64; changed in place.
        row: ``(P,)`` int64, the image.
        unit: ``(P,)`` int64.
        members: ``(n, G)`` bool, which images count for which category.

    Returns:
        ``areas``.
    """
    units = len(areas)
    by_image = torch.bincount(row * units + unit, minlength=len(members) * units).view(len(members), units)
    # In float64, for a GPU has no product of integers; exact below 2^53 pixels.
    areas += (by_image.T.double() @ members.double()).long()
    return areas


def cyclic_partners(order: Sequence[int]) -> dict[int, int]:
    """A fixed re-pairing of images: one random cycle through all of them, so that none is its own partner.

    Sattolo's algorithm with a fixed seed, so it depends on the images alone: not on batches, shards or processes.

    Args:
        order: The images, in an order that every process agrees on.

    Returns:
        Each image's partner; empty for fewer than two images, which cannot be re-paired.

    Example:
        >>> partners = cyclic_partners(range(5))
        >>> sorted(partners.values()), any(a == b for a, b in partners.items())
        ([0, 1, 2, 3, 4], False)
    """
    items = list(order)
    if len(items) < 2:
        return {}
    draws = torch.rand(len(items), generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    shuffled = items.copy()
    for i in range(len(items) - 1, 0, -1):
        j = int(draws[i] * i)
        shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
    return dict(zip(items, shuffled, strict=True))
