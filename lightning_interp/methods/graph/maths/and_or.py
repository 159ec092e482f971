"""Parts of things located from a few boxes: an And-Or graph on the patterns of an explanatory graph.

Four layers, as in Zhang, Cao, Wu and Zhu (AAAI 2017): a part is any of its templates (OR), a template all of its latent
patterns (AND), a latent pattern is whichever node of a filter is found most clearly (OR), which takes a unit of the
network. A latent pattern votes for the part's centre at a fixed offset. What differs from the published scores (those
are in :mod:`~lightning_interp.methods.graph.maths.and_or_scores`) is how patterns are judged, because a few boxes do
not tell a good pattern from a lucky one:

- the variance of a pattern's votes is shrunk towards one that grows with its distance from the part;
- all images take part: those without a box count by the place that the votes agree on, as far as they agree.

Points are ``(x, y)`` in pixels of the image, whole numbers being centres of pixels; boxes are left, top, right and
bottom.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.patterns import Inference, PatternGraph

Box = tuple[float, float, float, float]

# Lengths are relative to sqrt(H * W) of the image. Further off, votes are equally wrong.
_CAP = 0.27
# No vote is sharper than this.
_SHARPEST = 0.09
# Standard deviation of votes by patterns on the part, before anything is known; it grows by this share of the distance.
_PRIOR = (0.07, 0.5)
# Images' worth of evidence that the prior is.
_EVIDENCE = 2.0
# An image with a box counts as so many on which the votes agree perfectly.
_LABEL = 2.0
# A pattern that is silent more often is of no use.
_SEEN = 0.5
# Cells of the grid that modes are looked for on, along either axis; steps from the best cell on.
_CELLS, _STEPS = 28, 6


class Latent(NamedTuple):
    """Latent patterns of N images.

    Attributes:
        points: ``(N, V, 2)``, where they are.
        scores: ``(N, V)``, how clearly they are there; 0 or less where they are not.
    """

    points: Tensor
    scores: Tensor


class Label(NamedTuple):
    """A part that was shown in an image.

    Attributes:
        box: Left, top, right and bottom.
        template: Which of the part's templates it is; numbers need not be consecutive.
    """

    box: Box
    template: int = 0


@dataclass(frozen=True)
class PartTemplate:
    """One look of a part (AND): the patterns that vote for it.

    Args:
        pattern: ``(n,)`` int64, columns of the latent patterns, most reliable first.
        offset: ``(n, 2)`` float64, from the pattern to the part's centre.
        variance: ``(n,)`` float64, of the votes along either axis, in square pixels.
        size: ``(2,)`` float64, mean width and height of its boxes.
    """

    pattern: Tensor
    offset: Tensor
    variance: Tensor
    size: Tensor


@dataclass(frozen=True)
class PartTemplates:
    """A semantic part (OR).

    Args:
        templates: By number.
        image_size: ``(H, W)`` of the images in pixels.
    """

    templates: Mapping[int, PartTemplate]
    image_size: tuple[int, int]


class Located(NamedTuple):
    """A part in N images.

    Attributes:
        centre: ``(N, 2)`` float64.
        boxes: ``(N, 4)`` float64, of the template's mean size.
        score: ``(N,)`` float64 in [0, 1]: share of the votes that agree, by weight.
        template: ``(N,)`` int64, number of the template.
    """

    centre: Tensor
    boxes: Tensor
    score: Tensor
    template: Tensor


def latent_patterns(graph: PatternGraph, inference: Inference) -> Latent:
    """Of each filter, in each image, the node with the largest score; pruned nodes are left out.

    Points are in the images as they are, also where a mirror image fits the graph better. Columns are the filters that
    have nodes left, by number, the top layer's first. A filter's nodes lie at different
    places; which of them an image shows tells where the part is, so that the nodes must not vote one by one.

    Args:
        graph: The graph.
        inference: Where its patterns are.

    Raises:
        DatasetError: If all nodes are pruned.
    """
    points, scores = [], []
    for layer in graph.layers:
        kept, found = graph.kept(layer.layer), inference[layer.layer]
        places = inference.upright(layer.layer, graph.image_size[1])
        for number in sorted(set(layer.filter[kept].tolist())):
            own = ((layer.filter == number) & kept).nonzero()[:, 0]
            best = found.score[:, own].max(1)
            rows = torch.arange(len(found.score))
            points.append(places[rows, own[best.indices]])
            scores.append(best.values)
    if not points:
        raise DatasetError("every pattern of the graph is pruned; restore some")
    return Latent(torch.stack(points, 1).double(), torch.stack(scores, 1).double())


def learn_part(
    latent: Latent, labels: Mapping[int, Label], image_size: tuple[int, int], patterns: int = 300
) -> PartTemplates:
    """Templates of a part from a few boxes, with all images of the category as support.

    Args:
        latent: Latent patterns of all images, with and without a box.
        labels: By row of the image, its box and template.
        image_size: ``(H, W)`` in pixels.
        patterns: Latent patterns a template, at most.

    Raises:
        DatasetError: If there is no box, a row is unknown, a box is empty, or no pattern is seen with a template.
    """
    _check(latent, labels)
    side = (image_size[0] * image_size[1]) ** 0.5
    rows = torch.tensor(list(labels))
    boxes = torch.tensor([label.box for label in labels.values()], dtype=torch.float64)
    kinds = torch.tensor([label.template for label in labels.values()])
    centres = torch.zeros(len(latent.points), 2, dtype=torch.float64)
    centres[rows] = (boxes[:, :2] + boxes[:, 2:]) / 2
    templates: dict[int, PartTemplate] = {}
    for kind in sorted(set(kinds.tolist())):
        weight = torch.zeros(len(centres), dtype=torch.float64)
        weight[rows[kinds == kind]] = 1.0
        size = (boxes[:, 2:] - boxes[:, :2])[kinds == kind].mean(0)
        templates[kind] = _template(latent, centres, weight, size, side, patterns)
    # A second time, with the images that have no box.
    first = locate(PartTemplates(templates, image_size), latent)
    seen = first.centre.clone()
    seen[rows] = centres[rows]
    kind_of = first.template.clone()
    kind_of[rows] = kinds
    trust = first.score / first.score.max().clamp(min=1e-12)
    trust[rows] = _LABEL
    for kind, template in templates.items():
        weight = trust * (kind_of == kind)
        templates[kind] = _template(latent, seen, weight, template.size, side, patterns)
    return PartTemplates(templates, image_size)


def locate(part: PartTemplates, latent: Latent) -> Located:
    """Where the part is in images: of the best template, the place where the most votes, by weight, agree.

    Args:
        part: The part.
        latent: Latent patterns, columns as those that it was learnt from.
    """
    found = []
    for number, template in part.templates.items():
        votes = latent.points[:, template.pattern].double() + template.offset
        weight = (latent.scores[:, template.pattern] > 0) / template.variance
        centre, score = _modes(votes, weight, template.variance, part.image_size)
        half = template.size / 2
        found.append((centre, torch.cat([centre - half, centre + half], 1), score, torch.full((len(votes),), number)))
    best = torch.stack([score for _, _, score, _ in found]).argmax(0)
    rows = torch.arange(len(best))
    return Located(*(torch.stack(values)[best, rows] for values in zip(*found, strict=True)))


def _check(latent: Latent, labels: Mapping[int, Label]) -> None:
    if not labels:
        raise DatasetError("no box to learn the part from; give at least one")
    for row, label in labels.items():
        if not 0 <= row < len(latent.points):
            raise DatasetError(f"a box for image {row}, but there are {len(latent.points)} images")
        left, top, right, bottom = label.box
        if not (right > left and bottom > top):
            raise DatasetError(f"image {row}: the box {label.box} is empty; give left, top, right, bottom")


def _template(
    latent: Latent, centres: Tensor, weight: Tensor, size: Tensor, side: float, patterns: int
) -> PartTemplate:
    """The patterns whose votes for the centres vary least, where images count by weight."""
    seen = latent.scores > 0
    active = seen * weight[:, None]
    total = active.sum(0).clamp(min=1e-12)
    offsets = centres[:, None] - latent.points
    offset = (active[..., None] * offsets).sum(0) / total[:, None]
    cap = (_CAP * side) ** 2
    for _ in range(2):
        # Cauchy weights: votes that are far off do not move the mean.
        robust = active / (1 + (offsets - offset).square().sum(-1) / (cap / 4))
        offset = (robust[..., None] * offsets).sum(0) / robust.sum(0).clamp(min=1e-12)[:, None]
    squares = (offsets - offset).square().sum(-1).clamp(max=cap)
    # A pattern that is silent is as wrong as one that is far off.
    error = (active * squares + (weight[:, None] - active) * cap).sum(0) / 2
    prior = (_PRIOR[0] * side) ** 2 + _PRIOR[1] ** 2 * offset.square().sum(1) / 2
    freedom = (weight.sum() - 1).clamp(min=0)
    variance = (error + _EVIDENCE * prior) / (freedom + _EVIDENCE)
    useful = (active.sum(0) > 0) & (seen.double().mean(0) >= _SEEN)
    if not useful.any():
        raise DatasetError("no pattern is seen in the images with a box; give boxes of other images")
    chosen = variance.masked_fill(~useful, torch.inf).argsort(stable=True)[: min(patterns, int(useful.sum()))]
    return PartTemplate(chosen, offset[chosen], variance[chosen].clamp(min=(_SHARPEST * side) ** 2), size)


def _modes(votes: Tensor, weight: Tensor, variance: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """``(N, 2)`` highest place of each image's sum of Gaussian votes, and ``(N,)`` its height over the largest one."""
    axes = [(torch.arange(_CELLS, dtype=torch.float64) + 0.5) * (length / _CELLS) - 0.5 for length in image_size]
    down, across = (
        (-(votes[..., which, None] - axis).square() / (2 * variance[:, None])).exp()
        for which, axis in ((1, axes[0]), (0, axes[1]))
    )
    height = torch.einsum("nvy,nvx->nyx", down * weight[..., None], across).flatten(1)
    best = height.argmax(1)
    place = torch.stack([axes[1][best % _CELLS], axes[0][best // _CELLS]], 1)
    for _ in range(_STEPS):
        # Mean shift never goes downhill.
        pull = weight * (-(votes - place[:, None]).square().sum(-1) / (2 * variance)).exp() / variance
        moved = (pull[..., None] * votes).sum(1) / pull.sum(1).clamp(min=1e-300)[:, None]
        place = torch.where(pull.sum(1)[:, None] > 0, moved, place)
    agree = weight * (-(votes - place[:, None]).square().sum(-1) / (2 * variance)).exp()
    return place, agree.sum(1) / (1 / variance).sum()
