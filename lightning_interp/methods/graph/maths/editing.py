"""Explanatory graphs edited by hand: which patterns are strong, which are doubtful, pruning and its undoing."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.patterns import Inference, LayerPatterns, PatternGraph, PatternLayer

G = TypeVar("G", bound=PatternGraph)

# So many labelled images weigh as much as the doubt without any.
_PRIOR = 2
# Pixels; what is expected by parents that never move differs by rounding only.
_STILL = 1e-3


@dataclass(frozen=True)
class RankedPattern:
    """A pattern by its score.

    Args:
        name: ``layer/filter/number``.
        layer: Module path.
        row: Its row in the layer.
        score: Its score, 1 being the mean of the layer.
    """

    name: str
    layer: str
    row: int
    score: float


@dataclass(frozen=True)
class DoubtfulPattern(RankedPattern):
    """A pattern, and what speaks against it.

    Args:
        labelled: Images with a labelled part in which the pattern's score is above 0.
        outside: Share of these on which that position is not on the part; NaN where there are none.
        margin: Distance of its mean position from the nearest border, in sides of the image; below 0 outside.
        travel: Root mean square distance of its positions from their mean, in pixels; NaN where not known.
        agreement: Correlation in [-1, 1] of its displacements from image to image with those that its parents and
            the pose expect; NaN where nothing was expected to move.
        doubt: In [0, 1], mean of the shares of the layer that score higher, agree more and travel more; of those of
            the three that are known.
    """

    labelled: int
    outside: float
    margin: float
    travel: float
    agreement: float
    doubt: float


def rank(graph: PatternGraph, layer: str | None = None, top: int | None = None) -> list[RankedPattern]:
    """The patterns that were not pruned, by score, the highest first; of equals, the upper layer's first.

    Args:
        graph: An explanatory graph.
        layer: Only those of this layer.
        top: Only so many.

    Raises:
        DatasetError: If there is no such layer.
        ValueError: If ``top`` is below 0.
    """
    if top is not None and top < 0:
        raise ValueError(f"top must be at least 0, got {top}")
    layers = graph.layers if layer is None else (graph[layer],)
    found = [
        RankedPattern(name, each.layer, row, score)
        for each in layers
        for row, (name, kept, score) in enumerate(
            zip(each.names(), graph.kept(each.layer).tolist(), each.score.tolist(), strict=True)
        )
        if kept
    ]
    return list(islice(sorted(found, key=lambda pattern: -pattern.score), top))


def prune(graph: G, names: Iterable[str]) -> G:
    """Take patterns out; those that are out already stay out.

    Raises:
        DatasetError: If a pattern is unknown, naming the nearest.
    """
    out = set(graph.pruned)
    return _edited(graph, [name for name in _known(graph, names) if name not in out])


def restore(graph: G, names: Iterable[str] | None = None) -> G:
    """Put patterns back, all of them by default; those that are in stay in.

    Raises:
        DatasetError: If a pattern is unknown, naming the nearest.
    """
    out = set(graph.pruned)
    return _edited(graph, [name for name in _known(graph, graph.pruned if names is None else names) if name in out])


def set_pruned(graph: G, names: Iterable[str]) -> G:
    """Take out these patterns and put back all others, as one edit.

    Raises:
        DatasetError: If a pattern is unknown, naming the nearest.
    """
    out, wanted = set(graph.pruned), _known(graph, names)
    back = [name for name in graph.pruned if name not in set(wanted)]
    return _edited(graph, [*back, *(name for name in wanted if name not in out)])


def undo(graph: G) -> G:
    """The graph before the last edit that changed it; itself if there was none."""
    return replace(graph, edits=graph.edits[:-1])


def _edited(graph: G, names: list[str]) -> G:
    return replace(graph, edits=(*graph.edits, tuple(names))) if names else graph


def _known(graph: PatternGraph, names: Iterable[str]) -> list[str]:
    """Each name once, all of them names of patterns."""
    # A string is an iterable of strings too, which nobody means.
    names = dict.fromkeys([names] if isinstance(names, str) else names)
    known = [name for layer in graph.layers for name in layer.names()]
    if unknown := sorted(set(names).difference(known)):
        close = difflib.get_close_matches(unknown[0], known)
        hint = (
            f"did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"names are layer/filter/number, as in {known[0]!r}"
        )
        raise DatasetError(f"unknown pattern {unknown[0]!r}; {hint}")
    return list(names)


def rank_for_pruning(
    graph: PatternGraph,
    parts: Mapping[int, Tensor | Sequence[float]] | None = None,
    inference: Inference | None = None,
) -> list[DoubtfulPattern]:
    """The patterns that were not pruned, in the order in which to look at them: most likely not on the part first.

    By the share of labelled images on which the pattern is outside the part, where its ``doubt``, a rule of thumb,
    counts as much as two images; by the doubt alone if nothing is labelled.

    Args:
        graph: An explanatory graph.
        parts: By index in the probe set, where the part is on a few images: ``(4,)`` box x0, y0, x1, y1 in pixels,
            whole numbers being centres of pixels, ends included; or ``(H, W)`` bool mask. Leave out images that do
            not show the part.
        inference: Where the patterns are; by default in the images that the graph was learnt from.

    Raises:
        DatasetError: If a labelled image is not in the inference, or its part is neither a box nor a mask.
    """
    inference = graph.learnt_from if inference is None else inference
    if parts and inference is None:
        raise DatasetError("this graph was kept without positions; give inference=, those in the labelled images")
    regions = {image: _region(image, part, graph.image_size) for image, part in (parts or {}).items()}
    found = [pattern for layer in graph.layers for pattern in _doubtful(graph, layer, inference, regions)]
    return sorted(found, key=_likely_outside, reverse=True)


def _likely_outside(pattern: DoubtfulPattern) -> float:
    missed = pattern.outside * pattern.labelled if pattern.labelled else 0.0
    return (missed + _PRIOR * pattern.doubt) / (pattern.labelled + _PRIOR)


def _doubtful(
    graph: PatternGraph, layer: PatternLayer, inference: Inference | None, regions: Mapping[int, Tensor]
) -> list[DoubtfulPattern]:
    unknown = torch.full_like(layer.score, torch.nan)
    travel = agreement = outside = unknown
    labelled = torch.zeros(len(layer), dtype=torch.int64)
    if inference is not None:
        travel, agreement = _motion(inference[layer.layer])
        labelled, outside = _misses(inference, layer.layer, regions, graph.image_size[1])
    size = torch.tensor(graph.image_size[::-1])
    margin = (torch.minimum(layer.position, size - 1 - layer.position) / size).amin(1)
    doubt = torch.stack([_share_above(each) for each in (layer.score, agreement, travel)]).nanmean(0)
    columns = (layer.score, labelled, outside, margin, travel, agreement, doubt)
    rows = zip(layer.names(), graph.kept(layer.layer).tolist(), *(each.tolist() for each in columns), strict=True)
    return [
        DoubtfulPattern(name, layer.layer, row, *numbers) for row, (name, kept, *numbers) in enumerate(rows) if kept
    ]


def _motion(patterns: LayerPatterns) -> tuple[Tensor, Tensor]:
    """Travel and agreement of V patterns over the images on which their filters respond, ``(V,)`` float64 each."""
    heard = (patterns.score > 0)[..., None]
    moved, expected = (_displacement(each.double(), heard) for each in (patterns.point, patterns.expected))
    travel = _mean(moved.square(), heard).sum(1).sqrt()
    foreseen = _mean(expected.square(), heard).sum(1).sqrt()
    agreement = _mean(moved * expected, heard).sum(1) / (travel * foreseen)
    return travel, agreement.masked_fill((travel < _STILL) | (foreseen < _STILL), torch.nan)


def _displacement(points: Tensor, heard: Tensor) -> Tensor:
    return points - _mean(points, heard)


def _mean(values: Tensor, heard: Tensor) -> Tensor:
    """``(V, 2)`` mean over the images on which the filters respond; NaN where there are none."""
    return torch.where(heard, values, 0).sum(0) / heard.sum(0)


def _misses(inference: Inference, layer: str, regions: Mapping[int, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """On how many labelled images the filters respond, and the share of these with the pattern outside the part."""
    rows = {image: row for row, image in enumerate(inference.images.tolist())}
    patterns = inference[layer]
    labelled, missed = torch.zeros(2, patterns.score.shape[1], dtype=torch.int64)
    for image, region in regions.items():
        if image not in rows:
            raise DatasetError(f"no positions in image {image}; give inference= with them, or leave the image out")
        point = patterns.point[rows[image]].double()
        if inference.mirrored[rows[image]]:
            point = torch.stack([width - 1 - point[:, 0], point[:, 1]], 1)
        heard = patterns.score[rows[image]] > 0
        labelled += heard
        missed += heard & ~_within(point, region)
    return labelled, missed.double() / labelled


def _region(image: int, part: Tensor | Sequence[float], size: tuple[int, int]) -> Tensor:
    """The part as ``(2, 2)`` float64 corners, x and y in the columns, or as ``(H, W)`` bool mask."""
    got: object = part
    with suppress(TypeError, ValueError, RuntimeError):  # what is no array of numbers at all
        region = torch.as_tensor(part)
        got = region.tolist() if region.numel() <= 4 else tuple(region.shape)
        if region.dtype == torch.bool and region.shape == size:
            return region
        if region.dtype != torch.bool and region.shape == (4,):
            corners = region.double().view(2, 2)
            if (corners[0] <= corners[1]).all():
                return corners
    raise DatasetError(
        f"part of image {image}: expected a box x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, or a bool mask of "
        f"{size[0]} x {size[1]} pixels; got {got!r}"
    )


def _within(points: Tensor, region: Tensor) -> Tensor:
    """``(V,)`` bool, which of ``(V, 2)`` points are on the part."""
    if region.dtype != torch.bool:
        return ((points >= region[0]) & (points <= region[1])).all(1)
    column, row = points.round().long().unbind(1)
    height, width = region.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return inside & region[row.clamp(0, height - 1), column.clamp(0, width - 1)]


def _share_above(values: Tensor) -> Tensor:
    """``(V,)`` share of the other patterns with a larger value, equals counting half; NaN for values of NaN."""
    # Sums of the same numbers in another order are equals too.
    values = values.round(decimals=6)
    known = ~values.isnan()
    ordered = values[known].sort().values
    first, last = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    share = (len(ordered) - (first + last + 1).double() / 2) / max(len(ordered) - 1, 1)
    return share.where(known, torch.nan)
