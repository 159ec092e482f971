"""Edges: which patterns of the layer above say where a pattern is, and what they say.

For a set E of M parents, P(p_x | V, R) = gamma prod_{V' in E} N(p_x; mu_V - mu_V' + p_V', sigma_V'^2)^(1/M) (Zhang et
al., AAAI 2018). With gamma a constant, the bound on the likelihood that the E-step gives is a sum over parents, so that
the M best ones are those that choosing greedily finds.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.methods.graph.maths.pose import Sum


class Above(NamedTuple):
    """The patterns of the layer above; V' of them.

    Attributes:
        shift: ``(N, V', 2)``, d = p_V' - mu_V', how far each is from its mean position in each image.
        spread: ``(V',)``, sigma_V'.
    """

    shift: Tensor
    spread: Tensor


class Parents(NamedTuple):
    """The parents of V patterns, M each.

    Attributes:
        row: ``(V, M)`` int64, which of :class:`Above`; -1 where there is none, but at least one of each pattern.
        weight: ``(V, M)``, share in the displacement, proportional to 1 / sigma^2, 0 where there is none; a row sums
            to 1.
    """

    row: Tensor
    weight: Tensor


def choose_parents(
    mass: Tensor, first: Tensor, second: Tensor, above: Above, candidates: Tensor, number: int, total: Sum
) -> Parents:
    """The M patterns above that make the activation likeliest, shared out as it is now.

    Args:
        mass: ``(N, V)``, sum_x r_V(x) F(x), weighted by image.
        first: ``(N, V, 2)``, sum_x r_V(x) F(x) (p_x - mu_V), likewise.
        second: ``(N, V)``, sum_x r_V(x) F(x) |p_x - mu_V|^2, likewise.
        above: The layer above.
        candidates: ``(V'',)`` int64, which of it may be chosen.
        number: M; all, if there are fewer.
        total: Sum over processes.
    """
    shift = above.shift[:, candidates].double()
    cross = first.double().permute(1, 0, 2).flatten(1) @ shift.permute(0, 2, 1).flatten(0, 1)
    far = total(mass.double().T @ shift.square().sum(2) - 2 * cross)
    own, weight = total(second.double().sum(0))[:, None], total(mass.double().sum(0))[:, None]
    # sum_I sum_x r F log N(p_x; mu_V + d_V', sigma_V'^2), but for a constant.
    precision = above.spread[candidates].double().square().reciprocal()
    value = weight * precision.log() - 0.5 * precision * (own + far)
    column = value.argsort(dim=1, descending=True, stable=True)[:, :number]
    chosen = precision[column]
    return Parents(candidates[column], chosen / chosen.sum(1, keepdim=True))


class Prediction(NamedTuple):
    """What parents say of V patterns.

    Attributes:
        shift: ``(N, V, 2)``, Delta: the mean of the parents' shifts, by weight.
        width: ``(V,)``, s: the root of the harmonic mean of the parents' variances.
        level: ``(N, V)``, log Lambda: it falls as they disagree.
    """

    shift: Tensor
    width: Tensor
    level: Tensor


def predict(parents: Parents, above: Above) -> Prediction:
    """The product of the parents' Gaussians to the power of 1 / M, as one Gaussian.

    prod_V' N(p; mu + d_V', sigma_V'^2)^(1/M) = Lambda N(p; mu + Delta, s^2), with
    Lambda = s^2 prod_V' [sigma_V'^(-2/M) exp(-|Delta - d_V'|^2 / (2 M sigma_V'^2))].
    """
    there = parents.row >= 0
    row, number = parents.row.clamp(min=0), there.sum(1)
    variance = above.spread.double().square()[row]
    width = (variance.reciprocal() * there).sum(1).div(number).rsqrt()
    shifts, squares = [], []
    shift = above.shift.double()
    pieces = (torch.split(values, _CHUNK) for values in (row, parents.weight.double()))
    for rows, weights in zip(*pieces, strict=True):
        each = shift[:, rows]
        mean = (each * weights[..., None]).sum(2)
        shifts.append(mean)
        squares.append(((each - mean[:, :, None]).square().sum(3) * weights).sum(2))
    # The weights are 1 / (M sigma^2) times s^2.
    disagreement = torch.cat(squares, 1) / (2 * width.square())
    level = 2 * width.log() - (variance.log() * there).sum(1) / number - disagreement
    return Prediction(torch.cat(shifts, 1), width, level)


# Patterns at once, so that what all parents say in all images need not be held.
_CHUNK = 512
