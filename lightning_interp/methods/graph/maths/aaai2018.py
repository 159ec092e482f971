"""Steps of the published learner (Zhang et al., AAAI 2018), as its code computes them, for comparison only.

It looks at 36 places around a pattern where :mod:`~lightning_interp.methods.graph.maths.mixture` sums over all units,
and differs from the paper in ways that are not repeated here: the window and width of filter 0 for all filters,
displacements in units of the upper layer's map. So these functions are those of one filter, and of layers of equal
stride.

Positions are ``(row, column)`` in units of the map, the first unit being 1; all values are float64.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_SIDE = 6
_MAX_RANGE, _DEFORM_RATIO = 0.3, 3.0
# Standard deviation of patterns without parents, relative to the map, and the share of V_none.
_INIT_DELTA, _TAU = 0.15, 0.1
# Share of the map at each border within which a pattern above is not made a parent.
_BORDER = 0.1


def half_ranges(size: int, deform: Tensor) -> Tensor:
    """``(V,)``, half the side of the square that each pattern looks at; ``deform`` ``(V,)`` is its deformation."""
    # Halves are rounded up, not to even.
    return ((_DEFORM_RATIO * deform).clamp(max=_MAX_RANGE * size / 2) + 0.5).floor()


def candidate_grid(size: int, deform: Tensor) -> Tensor:
    """``(V, 36, 2)``, offsets of the places that each pattern looks at: centres of 6 x 6 equal bins, columns slowest.

    Args:
        size: Units along a side of the map.
        deform: ``(V,)``, deformations.
    """
    bins = (torch.arange(_SIDE, dtype=torch.float64) + 0.5) * 2 / _SIDE - 1
    column, row = torch.meshgrid(bins, bins, indexing="ij")
    return half_ranges(size, deform)[:, None, None] * torch.stack([row.flatten(), column.flatten()], 1)


class Candidates(NamedTuple):
    """The 36 places of each of V patterns.

    Attributes:
        position: ``(V, 36, 2)``.
        probability: ``(V, 36)``, P(p | V).
        activation: ``(V, 36)``, F(p): the responses around, smoothed.
        derivative: ``(V, 36, 2)``, of log P(p | V) by the position of the pattern.
    """

    position: Tensor
    probability: Tensor
    activation: Tensor
    derivative: Tensor


def candidate_scores(
    response: Tensor, centre: Tensor, sigma: Tensor, level: Tensor, deform: Tensor, smoothing: float
) -> Candidates:
    """What one filter of an image gives at the places that its patterns look at.

    Args:
        response: ``(h, h)``; below 0 counts as 0.
        centre: ``(V, 2)``, where the patterns are expected.
        sigma: ``(V,)``, their standard deviations.
        level: ``(V,)``, lambda: a factor of P.
        deform: ``(V,)``, their deformations, of which the window follows.
        smoothing: Standard deviation of the smoothing.
    """
    size = len(response)
    offset = candidate_grid(size, deform)
    variance = sigma.square()[:, None]
    gaussian = (-offset.square().sum(2) / (2 * variance)).exp() / (2 * math.pi * variance)
    activation = torch.stack(
        [
            _smoothed(response, *each, smoothing)
            for each in zip(centre, offset, half_ranges(size, deform).tolist(), strict=True)
        ]
    )
    return Candidates(centre[:, None] + offset, level[:, None] * gaussian, activation, offset / variance[..., None])


def _smoothed(response: Tensor, centre: Tensor, offset: Tensor, half: float, smoothing: float) -> Tensor:
    """``(36,)``: units of the window about the rounded centre, weighted by distance as far as 3 deviations."""
    rows, columns = (
        torch.arange(max(middle - int(half), 1), min(middle + int(half), size) + 1)
        for middle, size in zip((centre + 0.5).floor().int().tolist(), response.shape, strict=True)
    )
    row, column = (
        (own - (middle + 0.5).floor() - away[:, None]).square()
        for own, middle, away in zip((rows, columns), centre, offset.T, strict=True)
    )
    # Farther units weigh as much as those at 3 deviations.
    square = (row[:, :, None] + column[:, None]).clamp(max=(3 * smoothing) ** 2)
    weight = (-square / (2 * smoothing**2)).exp() / (math.sqrt(2 * math.pi) * smoothing)
    total: Tensor = (weight * response[rows[:, None] - 1, columns - 1].clamp(min=0)).sum((1, 2))
    return total


def competition(candidates: Candidates) -> Tensor:
    """``(V, 36, V)``: P of the first pattern at the places of the last: that of its nearest own place.

    It is 0 outside of its own places; the sum over the first axis is the denominator of the E-step.
    """
    position, probability = candidates.position, candidates.probability
    places = position.flatten(0, 1)
    found = []
    for own, values in zip(position, probability, strict=True):
        inside = ((places >= own.amin(0)) & (places <= own.amax(0))).all(1)
        nearest = torch.cdist(places, own, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        found.append(torch.where(inside, values[nearest], 0.0).view(probability.shape).T)
    return torch.stack(found)


def learn_alone(
    maps: Tensor, position: Tensor, deforms: tuple[float, float], smoothing: float, iterations: int = 20
) -> tuple[Tensor, Tensor]:
    """Learn the patterns of a filter of the top layer: their positions ``(V, 2)`` and deformations ``(V,)``.

    Args:
        maps: ``(N, h, h)``, responses of the filter.
        position: ``(V, 2)``, where the patterns start.
        deforms: Least and largest deformation; the latter at the start.
        smoothing: Standard deviation of the smoothing.
        iterations: T.
    """
    one = torch.ones(len(position), dtype=torch.float64)
    sigma, deform = _INIT_DELTA * maps.shape[1] * one, deforms[1] * one
    for iteration in range(1, iterations + 1):
        slope, mass, square, weight = torch.zeros_like(position), one * 0, one * 0, one * 0
        for response in maps:
            found = candidate_scores(response, position, sigma, one, deform, smoothing)
            background = _TAU * found.probability.sum(1).mean()
            denominator = (competition(found).sum(0).T + background).clamp(min=1e-7)
            alone = found.probability * found.activation
            share = alone / denominator
            slope += (share[..., None] * found.derivative).sum(1)
            mass += share.sum(1)
            # Unlike the positions, deformations do not heed who else explains a place.
            square += (alone * (found.position - position[:, None]).square().sum(2)).sum(1)
            weight += alone.sum(1)
        position = position + sigma.square()[:, None] / math.sqrt(iteration) * slope / mass[:, None]
        deform = (square / weight).sqrt().clamp(*deforms)
    return position, deform


class Edges(NamedTuple):
    """The M parents of each of V patterns, and what they say in N images.

    Attributes:
        parent: ``(V, M)`` int64, the best first.
        displacement: ``(N, V, 2)``.
        sigma: ``(V,)``.
        level: ``(N, V)``, lambda.
    """

    parent: Tensor
    displacement: Tensor
    sigma: Tensor
    level: Tensor


class Seen(NamedTuple):
    """Where V patterns of a layer are in N images: ``position`` ``(N, V, 2)`` and ``score`` ``(N, V)``."""

    position: Tensor
    score: Tensor


def choose_edges(lower: Seen, upper: Seen, deform: Tensor, size: int, candidates: int, number: int) -> Edges:
    """Parents by movement in common, of layers whose maps are of the same size.

    Args:
        lower: The patterns that look for parents.
        upper: The patterns above.
        deform: ``(V',)``, deformations of the patterns above.
        size: Units along a side of the map.
        candidates: Patterns above that may be chosen: those of the largest score that move more than half of all do,
            and are not near the border.
        number: M.
    """
    mean = upper.position.mean(0)
    moved, own = upper.position - mean, lower.position - lower.position.mean(0)
    still = moved.square().sum(2).mean(0).argsort(stable=True)[: len(mean) // 2]
    allowed = ((mean >= _BORDER * size) & (mean <= (1 - _BORDER) * size)).all(1)
    allowed[still] = False
    best = upper.score.sum(0).masked_fill(~allowed, -torch.inf).argsort(descending=True, stable=True)
    best = best[: min(candidates, int(allowed.sum()))]
    square = (own[:, :, None] - moved[:, None, best]).square().sum(3)
    alike = ((-square / (2 * square.mean((0, 2), keepdim=True))).exp() * lower.score[..., None]).sum(0)
    parent = best[alike.argsort(dim=1, descending=True, stable=True)[:, :number]]
    return Edges(parent, *_told(moved[:, parent], deform[parent]))


def _told(moved: Tensor, deform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Displacement, sigma and lambda, of ``(N, V, M, 2)`` and ``(V, M)``; lambda lacks the paper's power of 1 / M."""
    number = deform.shape[1]
    precision = 1 / (number * deform.square())
    sigma = precision.sum(1).rsqrt()
    displacement = (moved * precision[..., None]).sum(2) * sigma.square()[:, None]
    apart = (moved - displacement[:, :, None]).square().sum(3)
    level = sigma / deform.prod(1) * (-(apart * precision).sum(2) / 2).exp()
    return displacement, sigma, level
