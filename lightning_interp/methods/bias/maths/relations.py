"""Relationships between attributes as a network represents them: Gaussians of pairs, blind spots, failure modes.

After the idea of Zhang, Wang and Zhu (AAAI 2018, arXiv 1710.10577), whose equations could not be obtained: every
formula here is this project's own definition, and its numbers are not those of the paper. In short: the contribution
of unit c at position p to logit k is ``u_k(c, p) = (d s_k / d z)(c, p) * z(c, p)``; the relationship of attributes i
and j on an image is the cosine of ``u_i`` and ``u_j``; over images it is a Gaussian, which is held against the
Gaussian that is expected of the pair.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_interp.functional.moments import mean, variance

SIGMA_FLOOR = 0.01
"""Smallest standard deviation in :func:`gaussian_kl`, which else explodes where a cosine hardly varies."""


def contributions(gradients: Tensor, maps: Tensor) -> Tensor:
    """What each unit adds to each logit, linearised: gradient times activation.

    Exact where the network from the layer on is piecewise linear and without biases: the sum is the logit.

    Args:
        gradients: ``(B, K, C, H, W)``, of logit k with respect to the feature map.
        maps: ``(B, C, H, W)``, the feature map z.

    Returns:
        ``(B, K, C, H, W)``.
    """
    return gradients * maps[:, None]


def heat_map(contribution: Tensor) -> Tensor:
    """Contributions by position, summed over channels: ``(..., C, H, W)`` to ``(..., H, W)``; positive speaks for."""
    return contribution.sum(-3)


def inference_patterns(contribution: Tensor, share: float = 0.9) -> Tensor:
    """The smallest set of units that holds a share of the absolute contribution.

    Args:
        contribution: ``(B, K, C, H, W)``.
        share: In (0, 1].

    Returns:
        Bool of the same shape. Of equal contributions the first are taken; all False where everything is zero or not
        finite.
    """
    size = contribution.double().abs().flatten(2)
    ordered, unit = size.sort(dim=-1, descending=True, stable=True)
    held = ordered.cumsum(-1)
    taken = held - ordered < share * held[..., -1:]
    return torch.zeros_like(taken).scatter(-1, unit, taken).view(contribution.shape)


def dilate(masks: Tensor, pixels: int) -> Tensor:
    """``(B, H, W)`` bool masks grown by so many pixels, in a square."""
    return F.max_pool2d(masks[:, None].double(), 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0


def context_share(heat: Tensor, masks: Tensor) -> Tensor:
    """Share of the absolute heat that lies outside the region.

    Args:
        heat: ``(B, K, h, w)``, signed (:func:`heat_map`); scaled bilinearly to the size of the masks.
        masks: ``(B, H, W)`` bool, the region; grown a little (:func:`dilate`), since heat bleeds over its edge.

    Returns:
        ``(B, K)`` float64 in [0, 1]; NaN where the region is empty or covers the image, and where the heat is zero
        or not finite.
    """
    region = masks[:, None]
    size = F.interpolate(heat.double(), masks.shape[-2:], mode="bilinear", align_corners=False).abs()
    outside = (size * ~region).sum((2, 3)) / size.sum((2, 3))
    judged = region.any((2, 3)) & ~region.all((2, 3))
    return torch.where(judged, outside, torch.nan)


def pair_cosines(vectors: Tensor) -> Tensor:
    """Cosines between the attributes of each image; :func:`~lightning_interp.functional.moments.moments` sums them.

    Args:
        vectors: ``(B, K, ...)``: contributions, or the weights of a linear head as ``head.weight[None]``, whose
            cosine says nearly the same at no cost.

    Returns:
        ``(B, K, K)`` float64 in [-1, 1]; NaN for pairs with a vector that is zero or not finite.
    """
    # One image at a time: the result is then the same whatever batch it comes in, and float64 needs little memory.
    return torch.stack([_cosines(one) for one in vectors.flatten(2)])


def _cosines(vectors: Tensor) -> Tensor:
    rows = vectors.double()
    # A product of small float32 gradients may be far from 1; scaled first, its square neither vanishes nor overflows.
    rows = rows / rows.abs().amax(1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True)
    cosines: Tensor = rows @ rows.T
    return cosines.clamp(-1, 1)


def gaussian_kl(expected: tuple[float, float], found: tuple[float, float]) -> float:
    """``KL(N(m*, s*^2) || N(m, s^2)) = ln(s / s*) + (s*^2 + (m* - m)^2) / (2 s^2) - 1/2``, in nats.

    Args:
        expected: Mean and standard deviation m*, s*.
        found: Mean and standard deviation m, s. Both deviations are at least :data:`SIGMA_FLOOR`.

    Example:
        >>> round(gaussian_kl((0.0, 0.2), (0.5, 0.2)), 3)
        3.125
    """
    true, sigma = max(expected[1], SIGMA_FLOOR), max(found[1], SIGMA_FLOOR)
    return math.log(sigma / true) + (true**2 + (expected[0] - found[0]) ** 2) / (2 * sigma**2) - 0.5


@dataclass(frozen=True)
class Reference:
    """The Gaussian expected of a pair by the sign t of its relation: ``N(zero + t * strength, sigma^2)``.

    Args:
        zero: Cosine of unrelated attributes. Not 0 in every network: 0.26 to 0.32 was measured in an untrained one.
        strength: How far related attributes are from it.
        sigma: Standard deviation over images.
    """

    zero: float = 0.0
    strength: float = 0.5
    sigma: float = 0.2

    @classmethod
    def of_unrelated(cls, sums: Tensor, strength: float = 0.5) -> "Reference":
        """Zero level and deviation as pairs show them that are known to be unrelated.

        Args:
            sums: ``(P, 3)``, the moments of their cosines, pooled here: what differs between the pairs counts as
                deviation, too.
            strength: As above.

        Raises:
            ValueError: If the pairs have fewer than two cosines.
        """
        pooled = sums.sum(0)
        if pooled[0] < 2:
            raise ValueError("the unrelated pairs have fewer than two cosines to set the reference from")
        return cls(float(mean(pooled)), strength, float(variance(pooled).sqrt()))

    def gaussian(self, sign: int) -> tuple[float, float]:
        """Mean and standard deviation expected of a pair of the given sign."""
        return self.zero + sign * self.strength, self.sigma


@dataclass(frozen=True)
class Relation:
    """The relationship of two attributes.

    Args:
        pair: Their names.
        sign: What is expected: +1, -1, or 0 for unrelated.
        mean: Mean cosine over the images.
        sigma: Its standard deviation over the images.
        conflict: :func:`gaussian_kl` from the expected Gaussian to this one, nats. It explodes with a small ``sigma``:
            show ``mean`` beside it.
        count: Images.
    """

    pair: tuple[str, str]
    sign: int
    mean: float
    sigma: float
    conflict: float
    count: int


def relations(
    names: Sequence[str], expected: Mapping[tuple[str, str], int], sums: Tensor, reference: Reference
) -> list[Relation]:
    """The pairs whose relation is known, most in conflict with it first.

    Args:
        names: The K attributes.
        expected: Sign by pair of names, in either order: +1, -1, or 0 for unrelated. Other pairs are not judged.
        sums: ``(K, K, 3)``, moments of the cosines.
        reference: The expected Gaussians.

    Returns:
        One a pair with at least two cosines; the rest have no Gaussian and are left out.

    Raises:
        ValueError: If a name is unknown, a pair is an attribute with itself or a sign is none of the three.
    """
    found = []
    for pair, sign in expected.items():
        if pair[0] == pair[1] or not {*pair} <= {*names} or sign not in (-1, 0, 1):
            raise ValueError(f"expected[{pair}] = {sign}: give two of {', '.join(names)} and one of +1, 0, -1")
        cell = sums[names.index(pair[0]), names.index(pair[1])]
        if cell[0] >= 2:
            gaussian = float(mean(cell)), float(variance(cell).sqrt())
            conflict = gaussian_kl(reference.gaussian(sign), gaussian)
            found.append(Relation(pair, sign, *gaussian, conflict, int(cell[0])))
    return sorted(found, key=lambda relation: (-relation.conflict, relation.pair))


def blind_spots(ranked: Sequence[Relation], reference: Reference) -> list[Relation]:
    """Relations that exist and that the network fails to encode: weaker than the reference, or of the other sign."""
    return [r for r in ranked if r.sign and r.sign * (r.mean - reference.zero) < reference.strength]


def failure_modes(ranked: Sequence[Relation], reference: Reference) -> list[Relation]:
    """Relations that do not exist and that the network encodes: further than one sigma from the zero level.

    The bound matters: a pair at the zero level is in conflict, too, if its cosines vary less than the reference's.
    """
    return [r for r in ranked if r.sign == 0 and abs(r.mean - reference.zero) > reference.sigma]


def pair_tables(labels: Tensor, predictions: Tensor) -> Tensor:
    """How often two attributes occur together, in the labels and in the predictions of the same images.

    Args:
        labels: ``(B, K)`` integers, 0 or 1; negative where unknown.
        predictions: ``(B, K)`` integers, likewise. A value counts only where both are known.

    Returns:
        ``(2, K, K, 2, 2)`` int64: of labels, then of predictions; entry ``[i, j, a, b]`` counts images with value a of
        attribute i and b of j. Sums of batches are the sums of the whole.

    Raises:
        ValueError: If the shapes differ or a value is above 1.
    """
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(f"labels {tuple(labels.shape)} and predictions {tuple(predictions.shape)}: give (B, K) twice")
    values = torch.stack([labels, predictions])
    if bool((values > 1).any()):
        raise ValueError("labels or predictions above 1; tables of pairs are for binary attributes")
    known = (values >= 0).all(0)
    is_value = torch.stack([(values == v) & known for v in (0, 1)], dim=-1)
    # In float64, for a GPU has no product of integers; exact below 2^53 images.
    hot = is_value.double()
    return torch.einsum("nbia,nbjc->nijac", hot, hot).long()


def phi(tables: Tensor) -> Tensor:
    """Phi coefficient, the correlation of two binary attributes.

    Args:
        tables: ``(..., 2, 2)`` counts (:func:`pair_tables`).

    Returns:
        ``(...)`` float64 in [-1, 1]; NaN where an attribute has one value only.
    """
    t = tables.double()
    rows, columns = t.sum(-1), t.sum(-2)
    product = (rows.prod(-1) * columns.prod(-1)).sqrt()
    return (t[..., 1, 1] * t[..., 0, 0] - t[..., 1, 0] * t[..., 0, 1]) / product


def phi_excess(tables: Tensor) -> Tensor:
    """Phi of the predictions minus phi of the labels, ``(K, K)`` float64, from :func:`pair_tables`."""
    both = phi(tables)
    return both[1] - both[0]


def label_entropy(tables: Tensor) -> Tensor:
    """Joint entropy ``H(y_i, y_j)`` of the labels, the baseline that the 2018 paper is said to rank pairs by.

    Args:
        tables: Of :func:`pair_tables`.

    Returns:
        ``(K, K)`` float64, nats, at most ln 4; NaN for a pair never labelled together.
    """
    share = tables[0].double() / tables[0].sum((-2, -1), keepdim=True)
    entropy: Tensor = torch.special.entr(share)
    return entropy.sum((-2, -1))


def table_divergence(tables: Tensor) -> Tensor:
    """KL from the labels' table of a pair to the predictions', half a count added to every cell (Jeffreys' prior).

    Args:
        tables: Of :func:`pair_tables`.

    Returns:
        ``(K, K)`` float64, nats; NaN for a pair never labelled together.
    """
    counts = tables.double()
    truth, predicted = (counts + 0.5) / (counts.sum((-2, -1), keepdim=True) + 2)
    divergence = (truth * (truth / predicted).log()).sum((-2, -1))
    return torch.where(counts[0].sum((-2, -1)) > 0, divergence, torch.nan)


def average_precision(ranked: Sequence[Hashable], planted: Collection[Hashable]) -> float:
    """Average precision of a ranking: mean over the planted items of the precision at each one's rank.

    Args:
        ranked: Distinct items, best first.
        planted: The items to be found; one that is not ranked counts 0.

    Returns:
        In [0, 1]; NaN if nothing is planted.

    Example:
        >>> average_precision(["a", "x", "b"], {"a", "b"})
        0.8333333333333333
    """
    ranks = [rank for rank, item in enumerate(ranked, start=1) if item in planted]
    precisions = [hits / rank for hits, rank in enumerate(ranks, start=1)]
    return sum(precisions) / len(planted) if planted else math.nan
