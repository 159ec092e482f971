"""Scores of the And-Or graph that is grown on units of a network (Zhang, Cao, Wu and Zhu, AAAI 2017), as published.

They are those of the authors' code, where the paper leaves the constants open. Points are ``(x, y)`` in pixels of the
image. A latent pattern starts at a unit, takes the best unit of its channel within reach, and votes for the centre of
a part at a fixed displacement from there.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.upsampling import Grid


@dataclass(frozen=True)
class Weights:
    """Constants of the published scores.

    Args:
        local: Weight of the unit's own response.
        geometric: Weight of the deformation.
        generic: Weight of the support by all images of the category.
        parent: Weight of the agreement with patterns of the layer above.
        reliability: Weight of nearness to the part.
        vote: Weight of how well a vote fits the part's centre.
        delta: Pixels: scale of all distances.
        silent: What a unit without a positive response counts.
    """

    local: float = 1.5
    geometric: float = 0.35
    generic: float = 5.0
    parent: float = 10.0
    reliability: float = 2.0
    vote: float = 5.0
    delta: float = 70.0
    silent: float = -3.0


PUBLISHED = Weights()
GENERIC_DELTA = 50 * math.sqrt(2)
"""Pixels: scale of the deformation in :func:`generic_score`."""


class Units(NamedTuple):
    """The units that patterns take in an image.

    Attributes:
        cell: ``(V,)`` int64, place in the map, row-major.
        point: ``(V, 2)`` float64, centre of the unit in pixels.
        local: ``(V,)`` float64, its response.
        geometric: ``(V,)`` float64, deformation, at most 0.
        parent: ``(V,)`` float64, disagreement with the layer above, at most 0.
        score: ``(V,)`` float64, GenL.
    """

    cell: Tensor
    point: Tensor
    local: Tensor
    geometric: Tensor
    parent: Tensor
    score: Tensor


class Vote(NamedTuple):
    """What a template's patterns say together.

    Attributes:
        centre: ``(2,)`` float64, centre of the part's box, cut at the border of the image.
        size: ``(2,)`` float64, its width and height in whole pixels.
        peak: Height of the map of votes there.
        score: The template's score: mean over patterns of GenL, reliability and fit of their vote.
    """

    centre: Tensor
    size: Tensor
    peak: float
    score: float


def log_gauss(offset: Tensor, delta: float) -> Tensor:
    """``-|offset|^2 / (4 delta^2)`` of ``(..., 2)`` offsets: the log-Gaussian of the authors' compiled code."""
    return -offset.square().sum(-1) / (4 * delta**2)


def local_score(response: Tensor, valid: Tensor, weights: Weights = PUBLISHED) -> Tensor:
    """Normalised responses, those of silent units replaced; ``(...,)`` float64 of the same shape."""
    return response.double().masked_fill(~valid, weights.silent)


def parent_score(points: Tensor, expected: Tensor, valid: Tensor, delta: float = PUBLISHED.delta) -> Tensor:
    """How far units are from where patterns of the layer above expect them.

    Args:
        points: ``(P, 2)`` float64, units.
        expected: ``(V, K, 2)`` float64, position of each parent plus its displacement to the pattern.
        valid: ``(V, K)`` bool, parents that were found; the others say nothing, but count in the mean.
        delta: Pixels.

    Returns:
        ``(V, P)`` float64, 0 where there is no valid parent.
    """
    apart = (points[:, None] - expected[:, None]).square().sum(-1).sqrt() / (delta * math.sqrt(0.5))
    return -(apart * valid[:, None]).mean(-1)


def best_units(
    local: Tensor,
    points: Tensor,
    start: Tensor,
    reach: float,
    generic: Tensor,
    parent: Tensor,
    weights: Weights = PUBLISHED,
) -> Units:
    """The unit with the largest GenL within reach of each pattern's start.

    Args:
        local: ``(V, P)`` float64, :func:`local_score` of the units of each pattern's channel.
        points: ``(P, 2)`` float64, their centres.
        start: ``(V, 2)`` float64, the patterns' start units.
        reach: Pixels along each axis.
        generic: ``(V,)`` float64, of :func:`generic_score`.
        parent: ``(V, P)`` float64, of :func:`parent_score`.
        weights: Constants.
    """
    offset = points - start[:, None]
    geometric = log_gauss(offset, weights.delta)
    score = weights.local * local + weights.geometric * geometric + weights.parent * parent
    score = score + weights.generic * generic[:, None]
    cell = score.masked_fill(offset.abs().amax(-1) > reach, -math.inf).argmax(1)
    own = (values.gather(1, cell[:, None])[:, 0] for values in (local, geometric, parent, score))
    return Units(cell, points[cell], *own)


def generic_score(
    local: Tensor, grid: Grid, reach: float, delta: float = GENERIC_DELTA, local_weight: float = 0.1
) -> Tensor:
    """Support of every unit as the start of a pattern, without labels: its best neighbour's response and nearness.

    Args:
        local: ``(N, C, h, w)`` float64, :func:`local_score` of all images of a category.
        grid: Where the values lie on the image.
        reach: Pixels along each axis.
        delta: Pixels.
        local_weight: Of the response; the deformation counts 1.

    Returns:
        ``(C, h, w)`` float64, mean over the images.
    """
    rows, columns = (round(math.floor(reach / axis.step)) for axis in (grid.rows, grid.columns))
    padded = torch.nn.functional.pad(local * local_weight, (columns, columns, rows, rows), value=-math.inf)
    height, width = local.shape[-2:]
    best = torch.full_like(local, -math.inf)
    for row in range(2 * rows + 1):
        for column in range(2 * columns + 1):
            step = torch.tensor([(column - columns) * grid.columns.step, (row - rows) * grid.rows.step])
            moved = padded[..., row : row + height, column : column + width]
            best = torch.maximum(best, moved + log_gauss(step, delta))
    return best.mean(0)


def nearest_parents(start: Tensor, above: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The patterns of the layer above that start nearest.

    Args:
        start: ``(V, 2)`` float64.
        above: ``(U, 2)`` float64; of equally near ones the earlier comes first.
        count: Parents a pattern; fewer if U is less.

    Returns:
        ``(V, K)`` int64, nearest first, and ``(V, K, 2)`` float64, start less parent.
    """
    offset = start[:, None] - above
    index = offset.square().sum(-1).sort(dim=1, stable=True).indices[:, :count]
    return index, offset.gather(1, index[..., None].expand(-1, -1, 2))


def vote(
    votes: Tensor,
    local: Tensor,
    score: Tensor,
    reliability: Tensor,
    part_size: tuple[float, float],
    image_size: tuple[int, int],
    weights: Weights = PUBLISHED,
) -> Vote:
    """Where the patterns of a template see the part.

    Args:
        votes: ``(V, 2)`` float64, unit plus displacement of each pattern.
        local: ``(V,)`` float64; only patterns with a positive response vote.
        score: ``(V,)`` float64, GenL.
        reliability: ``(V,)`` float64, :func:`log_gauss` of the pattern's start less the part's mean centre.
        part_size: Width and height of the part in pixels.
        image_size: ``(H, W)``.
        weights: Constants.
    """
    height, width = image_size
    votes_map = vote_map(votes, local > 0, image_size, weights)
    peak = votes_map.amax()
    # Of equals the first along the columns, as MATLAB has it.
    column, row = divmod(int((peak == votes_map.T).flatten().nonzero()[0, 0]), height)
    sides = []
    for at, side, length in ((column, part_size[0], width), (row, part_size[1], height)):
        # Rounded away from zero, and counted from 1, as the authors' boxes are.
        low, high = max(at + 1 - side / 2, 1), min(at + 1 + side / 2, length)
        sides.append((math.floor(low + 0.5) - 1, math.floor(high + 0.5) - 1))
    edges = torch.tensor(sides, dtype=torch.float64)
    centre = edges.mean(1)
    fit = weights.vote * log_gauss(centre - votes, weights.delta / 2)
    total = (score + weights.reliability * reliability + fit).mean()
    return Vote(centre, edges[:, 1] - edges[:, 0] + 1, float(peak), float(total))


def vote_map(votes: Tensor, active: Tensor, image_size: tuple[int, int], weights: Weights = PUBLISHED) -> Tensor:
    """``(H, W)`` float64: a square pyramid about each active vote, falling exponentially, over the number of patterns.

    Args:
        votes: ``(V, 2)`` float64.
        active: ``(V,)`` bool.
        image_size: ``(H, W)``.
        weights: Constants.
    """
    # A sixth of the range that patterns are searched in, 30 % of the image.
    reach = round(0.3 * image_size[0] / 6)
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in image_size)
    total = torch.zeros(image_size, dtype=torch.float64)
    floor = math.exp(-reach / (weights.delta / 2))
    for x, y in (votes[active] + 0.5).floor().tolist():
        across, down = (columns - x)[None], (rows - y)[:, None]
        height = (-torch.hypot(across, down) / (weights.delta * math.sqrt(0.5))).exp() - floor
        total += height * ((across.abs() <= reach) & (down.abs() <= reach))
    return total * weights.vote / max(len(votes), 1)
