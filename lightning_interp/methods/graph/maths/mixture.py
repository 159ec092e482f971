"""The patterns of a filter as a mixture of Gaussians over its units: E-step, M-steps and the unit that each takes.

The mixture is that of the explanatory graph (Zhang et al., AAAI 2018, Algorithm 1 and the equations before it): a unit
x of filter d, with response F(x) at p_x, is there F(x) times, and

    P(p_x | R) = sum_V P(V) P(p_x | V, R),   V the P patterns of d and V_none,   P(V) = 1 / (P + 1).

P(p_x | V, R) is Lambda_V N(p_x; mu_V + Delta_V, s_V^2) in image I, relative to a uniform distribution over the image,
and tau for V_none. A Gaussian is the product of one along each axis, so that all sums over units are matrix products.

Positions are in units of sqrt(H * W) of the image.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.methods.graph.maths.exact_products import exact_products

# Relative to the activation of the mean filter, 1 an image: where less speaks for a position, it stays.
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Units:
    """Where the units of a map are, and what of the image counts as uniform.

    Args:
        x: ``(w,)``, positions of columns.
        y: ``(h,)``, positions of rows.
        window: Half the side of the square around its expected position that a pattern looks at; infinite for all.
    """

    x: Tensor
    y: Tensor
    window: float = float("inf")


class Patterns(NamedTuple):
    """P patterns of each of C filters, as they are expected in N images.

    Attributes:
        position: ``(C, P, 2)``, mu: x and y.
        width: ``(C, P)``, s.
        shift: ``(N, C, P, 2)``, Delta: how far from mu they are expected.
        level: ``(N, C, P)``, log Lambda.
    """

    position: Tensor
    width: Tensor
    shift: Tensor
    level: Tensor

    def filters(self, part: slice) -> "Patterns":
        """Those of some filters."""
        return Patterns(self.position[part], self.width[part], self.shift[:, part], self.level[:, part])

    def images(self, part: slice) -> "Patterns":
        """Those in some images."""
        return Patterns(self.position, self.width, self.shift[part], self.level[part])


class Moments(NamedTuple):
    """What units say of patterns in each image; r_V(x) is the share of a unit that pattern V explains.

    Attributes:
        mass: ``(N, C, P)``, sum_x r_V(x) F(x).
        first: ``(N, C, P, 2)``, sum_x r_V(x) F(x) (p_x - Delta_V - mu_V), mu_V being that of the E-step.
        second: ``(N, C, P)``, sum_x r_V(x) F(x) |p_x - Delta_V - mu_V|^2.
        likelihood: ``(N,)`` float64, sum_x F(x) log P(p_x | R) over all filters.
    """

    mass: Tensor
    first: Tensor
    second: Tensor
    likelihood: Tensor


def _logs(patterns: Patterns, units: Units) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances to columns and rows, and log Gaussians over both: ``(N, C, P, w)``, ``(N, C, P, h)``, and the same.

    Their sum is the log density relative to the uniform one; log Lambda is in the second.
    """
    centre = patterns.position + patterns.shift
    width = patterns.width[..., None]
    dx, dy = units.x - centre[..., :1], units.y - centre[..., 1:]
    lx = -0.5 * (dx / width).square()
    ly = -0.5 * (dy / width).square() + (patterns.level[..., None] - (2 * torch.pi * width.square()).log())
    if units.window != float("inf"):
        lx, ly = (
            lx.masked_fill(dx.abs() > units.window, -torch.inf),
            ly.masked_fill(dy.abs() > units.window, -torch.inf),
        )
    return dx, dy, lx, ly


def explain(maps: Tensor, patterns: Patterns, units: Units, tau: float) -> Moments:
    """E-step: share every unit's response among the patterns of its filter and V_none.

    Args:
        maps: ``(N, C, h, w)``, F(x), not negative.
        patterns: Of these filters.
        units: Where the units are.
        tau: Density of V_none relative to the uniform distribution.
    """
    dx, dy, lx, ly = _logs(patterns, units)
    gx, gy = lx.exp(), ly.exp()
    number = gx.shape[2] + 1
    with exact_products(maps.device):
        total = gy.mT @ gx + tau
        # Where nothing can explain a unit (tau 0 and a window, or too far away for a quotient), nothing does.
        share = torch.where(total > torch.finfo(total.dtype).tiny ** 0.8, maps / total, 0.0)
        columns, rows = (gy @ share) * gx, (gx @ share.mT) * gy
    likelihood = torch.xlogy(maps, (total / number).clamp(min=torch.finfo(total.dtype).tiny)).double().sum((1, 2, 3))
    sums = [(columns * dx).sum(3), (rows * dy).sum(3)]
    second = (columns * dx.square()).sum(3) + (rows * dy.square()).sum(3)
    return Moments(rows.sum(3), torch.stack(sums, 3), second, likelihood)


def moved(patterns: Patterns, mass: Tensor, first: Tensor) -> Tensor:
    """M-step of the positions, the exact one: ``(C, P, 2)``; that of a pattern that explains nothing stays.

    Args:
        patterns: Those of the E-step.
        mass: ``(C, P)`` float64, summed over all images.
        first: ``(C, P, 2)`` float64, likewise.
    """
    return patterns.position + (first / (mass[..., None] + _NEGLIGIBLE)).to(patterns.position)


def spread_about(mass: Tensor, first: Tensor, second: Tensor, least: float, most: float) -> Tensor:
    """M-step of the standard deviations about the new positions, ``(C, P)`` float64, within bounds.

    Args:
        mass: ``(C, P)`` float64, summed over all images, as are
        first: ``(C, P, 2)`` and
        second: ``(C, P)``.
        least: Lower bound.
        most: Upper bound, also of a pattern that explains nothing.
    """
    number = mass + _NEGLIGIBLE
    about = second / number - (first / number[..., None]).square().sum(2)
    return (about / 2).clamp(min=0).sqrt().clamp(least, most).masked_fill(mass <= _NEGLIGIBLE, most)


class Taken(NamedTuple):
    """The unit that each pattern takes in each image.

    Attributes:
        cell: ``(N, C, P)`` int64, ``row * w + column``; of equals the first.
        score: ``(N, C, P)``, S = F(x) P(p_x | V, R) there.
    """

    cell: Tensor
    score: Tensor


def take(maps: Tensor, patterns: Patterns, units: Units, background: float) -> Taken:
    """The unit x that maximises (F(x) + b) P(p_x | V, R); with b = 0 that is S of the paper.

    Where nothing has a value, for the filter is silent or the window holds no unit, it is the unit next to where the
    pattern is expected.

    Args:
        maps: ``(N, C, h, w)``, F(x).
        patterns: Of these filters.
        units: Where the units are.
        background: b.
    """
    dx, dy, lx, ly = _logs(patterns, units)
    value = (maps + background).log()
    row = _first((value[:, :, None] + lx[..., None, :]).amax(4) + ly)
    along = value.gather(2, row[..., None].expand(lx.shape)) + lx
    column = _first(along)
    lost = along.gather(3, column[..., None])[..., 0] + ly.gather(3, row[..., None])[..., 0] == -torch.inf
    row, column = (torch.where(lost, _first(-away.abs()), own) for away, own in ((dy, row), (dx, column)))
    cell = row * maps.shape[3] + column
    density = ly.gather(3, row[..., None])[..., 0] + lx.gather(3, column[..., None])[..., 0]
    return Taken(cell, maps.flatten(2).gather(2, cell) * density.exp())


def _first(values: Tensor) -> Tensor:
    """Index of the largest along the last axis, of equals the first; ``max`` promises no order among them."""
    place = torch.arange(values.shape[-1], device=values.device)
    return torch.where(values == values.amax(-1, keepdim=True), place, len(place)).amin(-1)
