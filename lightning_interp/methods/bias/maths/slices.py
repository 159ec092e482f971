"""Slice discovery: groups of images, unknown beforehand, on which a network errs more than elsewhere.

In the spirit of Domino (Eyuboglu et al., ICLR 2022) and GEORGE (Sohoni et al., NeurIPS 2020), cut down to k-means so
that it needs no further library; the algorithm and its numbers are this project's own definition.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.functional.moments import Z95

MAX_IMAGES = 4096
"""Images that one search takes; draw a sample of more."""

_ITERATIONS = 30


@dataclass(frozen=True)
class WorstSlice:
    """The slice on which a network errs most; see :func:`worst_slice`.

    Args:
        error: Share of errors among the slice's images, none of which took part in finding it; NaN if none fell in.
        overall: Share of errors among all images.
        chance: Mean ``error`` of slices found in the same way after shuffling the errors within each class; NaN where
            none had an image.
        highest_chance: The largest of those: a slice that does not exceed it does not stand out. 1.0 for a network
            that always predicts one class, whose errors the labels alone explain.
        members: ``(size,)`` int64, the slice's images as rows of the input, nearest to the slice's centre first.
        count: Images searched: those with a finite embedding.
    """

    error: float
    overall: float
    chance: float
    highest_chance: float
    members: Tensor
    count: int

    @property
    def size(self) -> int:
        """Number of images in the slice."""
        return len(self.members)


def worst_slice(
    embeddings: Tensor,
    labels: Tensor,
    errors: Tensor,
    generator: torch.Generator,
    *,
    slices: int = 8,
    shuffles: int = 20,
) -> WorstSlice:
    """Find the slice with the most errors in one half of the images and measure it on the other half.

    K-means clusters one half by embedding, label and error bit; the slice of the largest error rate (by the lower
    95 % Wilson bound, so that three images do not win) is then given those images of the *other* half that are nearest
    to its centre by embedding and label alone. The halves then change places, and the members of both are pooled.
    Were the error measured on the images clustered by it, it would be 1.0 for every network: the error bit would have
    drawn the slice. Here an image's own error neither places it in a slice nor chooses the slice.

    Embedding and label together still tell where the decision boundary is, so a network without any shortcut, too,
    errs more in its worst slice than chance says. What tells a shortcut is the slice's size and
    :func:`precision_at_k` for a known group.

    Args:
        embeddings: ``(N, D)`` floating point, N at most :data:`MAX_IMAGES`. Rows with a non-finite value are left out.
        labels: ``(N,)`` integers, class numbers.
        errors: ``(N,)`` bool, where the prediction is wrong.
        generator: On the CPU; the result is a function of the input and of its state.
        slices: Number of clusters in each half.
        shuffles: Number of repetitions with errors shuffled within each class.

    Raises:
        ValueError: If the three lengths differ, or fewer than ``2 * slices`` or more than :data:`MAX_IMAGES` images
            are left.

    Example:
        >>> side = torch.arange(200) % 2
        >>> embeddings = side[:, None] + torch.linspace(0, 0.1, 200)[:, None]
        >>> found = worst_slice(embeddings, 0 * side, side == 1, torch.Generator().manual_seed(0), slices=2)
        >>> found.error, found.overall, found.size
        (1.0, 0.5, 100)
    """
    usable = _usable(embeddings, labels, errors, slices)
    wrong = errors.cpu()[usable].bool()
    classes = torch.unique(labels.cpu()[usable], return_inverse=True)[1]
    features = _features(embeddings.cpu()[usable], classes)
    halves = torch.randperm(len(usable), generator=generator).chunk(2)
    members = _held_out_members(features, wrong, halves, slices, generator)
    by_chance = []
    for shuffled in (_shuffled(wrong, classes, generator) for _ in range(shuffles)):
        by_chance.append(_rate(shuffled[_held_out_members(features, shuffled, halves, slices, generator)]))
    known = torch.tensor([rate for rate in by_chance if not math.isnan(rate)], dtype=torch.float64)
    return WorstSlice(
        error=_rate(wrong[members]),
        overall=_rate(wrong),
        chance=float(known.mean()),
        highest_chance=float(known.max()) if len(known) else float("nan"),
        members=usable[members],
        count=len(usable),
    )


def _usable(embeddings: Tensor, labels: Tensor, errors: Tensor, slices: int) -> Tensor:
    """Positions of the images with finite embeddings, if there are enough and not too many."""
    if not len(embeddings) == len(labels) == len(errors):
        raise ValueError(f"{len(embeddings)} embeddings, {len(labels)} labels, {len(errors)} errors: give one an image")
    usable = embeddings.isfinite().all(1).cpu().nonzero()[:, 0]
    if not 2 * slices <= len(usable) <= MAX_IMAGES:
        raise ValueError(f"{len(usable)} finite embeddings; give {2 * slices} to {MAX_IMAGES} for {slices} slices")
    return usable


def precision_at_k(members: Tensor, group: Tensor, k: int) -> float:
    """Share of a known group among the k images that are most typical of a slice (precision@k of Domino).

    Args:
        members: ``(size,)`` int64, most typical first; see :class:`WorstSlice`.
        group: ``(N,)`` bool, images of the known group, such as those whose label and context disagree. Its mean is
            the level that chance gives.
        k: Images to look at; all of a smaller slice.

    Returns:
        A number in [0, 1]; NaN for an empty slice.
    """
    return _rate(group.cpu()[members[:k]])


def _rate(hits: Tensor) -> float:
    """Share of True; NaN of none."""
    return float(hits.double().mean())


def _features(embeddings: Tensor, classes: Tensor) -> Tensor:
    """``(N, D + classes)`` float64: embeddings with unit mean square about their mean, and one-hot labels."""
    centred = embeddings.double() - embeddings.double().mean(0)
    scale = centred.square().sum(1).mean().sqrt()
    one_hot = torch.nn.functional.one_hot(classes).double()
    return torch.cat([centred / torch.where(scale > 0, scale, 1.0), one_hot], dim=1)


def _shuffled(errors: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """The errors, each moved to a random image of the same class."""
    order = torch.randperm(len(errors), generator=generator)
    drawn = order[classes[order].argsort(stable=True)]
    moved = torch.empty_like(errors)
    moved[classes.argsort(stable=True)] = errors[drawn]
    return moved


def _held_out_members(
    features: Tensor, errors: Tensor, halves: tuple[Tensor, ...], slices: int, generator: torch.Generator
) -> Tensor:
    """``(size,)`` rows that fall into the worst slice of the half they are not in, nearest to its centre first."""
    members, distances = [], []
    for fit, held in (halves, halves[::-1]):
        centres, nearest = k_means(torch.cat([features[fit], errors[fit, None].double()], 1), slices, generator)
        worst = _lower_rates(nearest, errors[fit], len(centres)).argmax()
        distance = torch.cdist(features[held], centres[:, :-1])
        inside = distance.argmin(1) == worst
        members.append(held[inside])
        distances.append(distance[inside, worst])
    return torch.cat(members)[torch.cat(distances).argsort(stable=True)]


def _lower_rates(nearest: Tensor, errors: Tensor, slices: int) -> Tensor:
    """``(slices,)`` lower bound of Wilson's 95 % interval of each slice's error rate; 0 for an empty slice."""
    size = torch.bincount(nearest, minlength=slices).double()
    rate = torch.bincount(nearest, errors.double(), minlength=slices) / size.clamp(min=1)
    margin = Z95 * (rate * (1 - rate) * size + Z95**2 / 4).sqrt()
    return (rate * size + Z95**2 / 2 - margin) / (size + Z95**2)


def k_means(points: Tensor, clusters: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from k-means++ seeds (Arthur & Vassilvitskii, SODA 2007).

    Args:
        points: ``(N, F)`` float64 on the CPU, N at least 1.
        clusters: Number of centres wanted; there are fewer where fewer points differ.
        generator: Draws the seeds.

    Returns:
        Centres ``(K, F)`` float64 and, for every point, the number of the nearest one, ``(N,)`` int64.
    """
    centres = _seeds(points, clusters, generator)
    nearest = torch.cdist(points, centres).argmin(1)
    for _ in range(_ITERATIONS):
        size = torch.bincount(nearest, minlength=len(centres))[:, None]
        total = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(size > 0, total / size.clamp(min=1), centres)
        before, nearest = nearest, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, nearest):
            break
    return centres, nearest


def _seeds(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """``(K, F)`` points, each drawn in proportion to its squared distance from those drawn before."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    while len(chosen) < clusters:
        weight = torch.cdist(points, points[chosen]).amin(1).square()
        if not weight.any():
            break
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
    return points[chosen]
