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
    which, row, column = (patches.values > thresholds[cells.unit][:, None, None]).nonzero(as_tuple=True)
    return cells.image[which], cells.unit[which], patches.pixel[which, row, column]


def count_concepts(
    row: Tensor, unit: Tensor, pixel: Tensor, labels: RegionBatch, num_units: int, num_concepts: int
) -> Tensor:
    """I: pixels of every unit on every concept.

    Args:
        row: ``(P,)`` int64, the image, as a row of ``labels.map``.
        unit: ``(P,)`` int64.
        pixel: ``(P,)`` int64, mask pixel number.
        labels: Regions of the images.
        num_units: U.
        num_concepts: C.

    Returns:
        ``(U, C)`` int64.
    """
    region = labels.map[row, pixel]
    first, last = labels.start[region], labels.start[region + 1]
    times = last - first
    # One entry a pixel and concept: position within the region's list of concepts.
    ends = times.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    within = torch.arange(total, device=row.device) - (ends - times).repeat_interleave(times)
    concept = labels.concept[first.repeat_interleave(times) + within]
    flat = unit.repeat_interleave(times) * num_concepts + concept
    return torch.bincount(flat, minlength=num_units * num_concepts).view(num_units, num_concepts)


def count_areas(row: Tensor, unit: Tensor, members: Tensor, num_units: int) -> Tensor:
    """A: active pixels of every unit on the images that count for each category.

    Args:
        row: ``(P,)`` int64, the image.
        unit: ``(P,)`` int64.
        members: ``(n, G)`` bool, which images count for which category.
        num_units: U.

    Returns:
        ``(U, G)`` int64.
    """
    images = len(members)
    area = torch.bincount(row * num_units + unit, minlength=images * num_units).view(images, num_units)
    return torch.stack([area[counts].sum(0) for counts in members.unbind(1)], 1)


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
