"""Units of a map that are assigned to the valid patterns of an image, and what a decoder makes of them alone.

After the pattern-based synthesis of Zhang, Cao, Shi, Wu and Zhu, "Interpreting CNN knowledge via an explanatory graph"
(AAAI 2018): of an image's patterns the top 10 % by score are valid, responses of units that are not assigned to a valid
pattern are set to zero, and an up-convolutional network draws the image from what is left.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.patterns import LayerPatterns, PatternLayer


class Synthesis(NamedTuple):
    """What a decoder draws of N images.

    Attributes:
        full: ``(N, 3, H, W)`` float32, from the whole map.
        kept: ``(N, 3, H, W)`` float32, from the units assigned to valid patterns, all others set to zero.
        chance: ``(N, 3, H, W)`` float32, from as many active units of the image, drawn by chance: what ``kept`` has to
            beat for the patterns to say more than any few units do.
        blank: ``(N, 3, H, W)`` float32, from a map of zeros: what the decoder draws of an image that it knows nothing
            of. Only what differs from it comes from the map.
        share: ``(N,)`` float32, share of the summed positive responses that is kept; NaN where there are none.
    """

    full: Tensor
    kept: Tensor
    chance: Tensor
    blank: Tensor
    share: Tensor


def valid_patterns(score: Tensor, share: float = 0.1, among: Tensor | None = None) -> Tensor:
    """The patterns of each image with the highest scores.

    Args:
        score: ``(N, V)``, S of every pattern at the unit that it takes; patterns of score 0 are never valid.
        share: Share of the patterns that are valid, rounded up; of equal scores the first are.
        among: ``(V,)`` bool, the patterns that count, as
            :meth:`~lightning_interp.methods.graph.patterns.PatternGraph.kept` gives them; None for all.

    Returns:
        ``(N, V)`` bool.

    Raises:
        ValueError: If the share is outside [0, 1].

    Example:
        >>> valid_patterns(torch.tensor([[1.0, 4.0, 3.0, 0.0], [0.0, 0.0, 0.0, 2.0]]), share=0.5)
        tensor([[False,  True,  True, False],
                [False, False, False,  True]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of valid patterns must be in [0, 1], got {share}")
    counted = score if among is None else score * among.to(score)
    patterns = score.shape[1] if among is None else int(among.sum())
    # A product such as 0.1 * 30 is a little above the whole number that it stands for.
    best = counted.argsort(dim=1, descending=True, stable=True)[:, : math.ceil(round(share * patterns, 9))]
    return torch.zeros_like(counted, dtype=torch.bool).scatter_(1, best, True) & (counted > 0)


def assigned_units(expected: Tensor, valid: Tensor, layer: PatternLayer, tau: float = 0.1) -> Tensor:
    """The units that are assigned to valid patterns.

    Each unit goes, as in the E-step, to the pattern of its filter that is most likely there, a normal distribution
    about the place where the pattern is expected (how far its parents agree has no say here); or to none of them, if
    that is less likely than ``tau`` times a uniform distribution over the image. What is meant by "assigned" is not
    said in the paper; to take of each pattern the one unit that it is inferred at leaves hardly anything, for the best
    patterns of a filter take the same one.

    Args:
        expected: ``(N, V, 2)``, x and y of where each pattern is expected, in pixels of the image.
        valid: ``(N, V)`` bool, patterns that count; the others take units from them all the same.
        layer: The patterns.
        tau: Density of the background, relative to a uniform one.

    Returns:
        ``(N, C, h, w)`` bool.
    """
    rows, columns = layer.grid.rows, layer.grid.columns
    device, shape = expected.device, (len(layer.scale), rows.length * columns.length)
    y, x = (torch.tensor(axis.anchors, dtype=torch.float64, device=device) for axis in (rows, columns))
    variance, owner = layer.width.to(device)[:, None].square(), layer.filter.to(device)[:, None].expand(-1, shape[1])
    background = math.log(2 * math.pi * tau / (rows.size * columns.size))
    units = []
    # An image at a time: every pattern is asked about every unit.
    for places, counts in zip(expected.double(), valid, strict=True):
        apart = (y - places[:, 1:]).square()[:, :, None] + (x - places[:, :1]).square()[:, None]
        density = -apart.flatten(1) / (2 * variance) - variance.log()
        best = torch.full(shape, background, dtype=torch.float64, device=device)
        best = best.scatter_reduce(0, owner, density, "amax")
        taken = (density >= best.gather(0, owner)) & counts[:, None]
        units.append(torch.zeros(shape, device=device).scatter_reduce(0, owner, taken.float(), "amax") > 0)
    return torch.stack(units).reshape(len(expected), shape[0], rows.length, columns.length)


@torch.no_grad()
def synthesise(
    decoder: nn.Module,
    maps: Tensor,
    layer: PatternLayer,
    patterns: LayerPatterns,
    *,
    share: float = 0.1,
    among: Tensor | None = None,
) -> Synthesis:
    """Draw images from their maps: whole, and with the units of valid patterns alone, beside references.

    Args:
        decoder: From maps ``(N, C, h, w)`` to images ``(N, 3, H, W)``, in eval mode and on the device of the maps; see
            :class:`~lightning_interp.modules.UpConvolution`.
        maps: ``(N, C, h, w)`` float32 as the layer gives them, of the mirror image where the patterns are those of it
            (``Inference.mirrored``); that is then drawn.
        layer: The layer of the graph.
        patterns: Its patterns in these images.
        share: Share of an image's patterns that are valid.
        among: ``(V,)`` bool, patterns that were not pruned: ``graph.kept(layer.layer)``; None for all.

    Raises:
        DatasetError: If the maps are not of the layer's size or not as many as the patterns' images.
    """
    _check_maps(maps, layer, len(patterns.point))
    valid = valid_patterns(patterns.score, share, among)
    left = maps * assigned_units(patterns.expected, valid, layer).to(maps.device)
    active, whole = (each.clamp(min=0).flatten(1).sum(1) for each in (left, maps))
    by_chance = maps * _as_many(maps > 0, left > 0)
    full, kept, chance, blank = (decoder(each) for each in (maps, left, by_chance, torch.zeros_like(maps)))
    return Synthesis(full, kept, chance, blank, active / whole)


def _as_many(active: Tensor, kept: Tensor) -> Tensor:
    """``(N, C, h, w)`` bool: of each image's active units as many as were kept, the same ones at every call."""
    order = torch.rand(active.shape, generator=torch.Generator().manual_seed(0)).to(active.device)
    rank = (order * active).flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < kept.flatten(1).sum(1, keepdim=True)).view_as(active) & active


def _check_maps(maps: Tensor, layer: PatternLayer, images: int) -> None:
    grid = layer.grid
    expected = (images, len(layer.scale), grid.rows.length, grid.columns.length)
    if tuple(maps.shape) != expected:
        raise DatasetError(f"maps of shape {tuple(maps.shape)} given for layer '{layer.layer}', expected {expected}")
