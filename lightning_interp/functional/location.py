"""Location instability of a layer by its published rules, beside its references and the correlation with landmarks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.class_selectivity import class_means, largest_column
from lightning_interp.functional.location_references import Constants, Deviations, constants, point_deviation
from lightning_interp.functional.peaks import (
    Chosen,
    Peaks,
    displacement,
    peak_points,
    top_images,
    unscored,
)
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.functional.upsampling import Grid

Variant = Literal["cvpr2018", "aaai2018"]
CategoryRule = Literal["least", "peak"]

TOP_IMAGES: dict[Variant, int] = {"cvpr2018": 100, "aaai2018": 20}
"""Images that a filter is judged by, as published."""

STRONGEST = 167
"""Filters of a layer that the AAAI 2018 variant takes: those with the largest mean of their top peaks."""


@dataclass(frozen=True)
class LocationScores:
    """Every filter against every landmark of every category; F filters, C categories, K landmarks.

    Args:
        deviations: Location instability D_fk and its references, each ``(F, C, K)`` float64 in image diagonals, over
            the top images of the category that show the landmark; NaN for fewer than two such images and for filters
            that are not taken.
        correlation: ``(F, C, K)`` float64, displacement correlation on the same images.
        r2: ``(F, C, K)`` float64, R^2 of displacements.
        correlation_chance: ``(F, C, K)`` float64, the correlation with the same landmark of other images.
        images: ``(F, C, K)`` int64, images that counted.
        parts: ``(C, K)`` bool, Part_c: landmarks that at least two images of the category show.
        category: ``(F,)`` int64, category of the largest mean peak, as in the published code; -1 for filters that are
            dead or not finite.
        dead: ``(F,)`` bool, filters never above 0.
        taken: ``(F,)`` bool, filters that the variant takes: all that are neither dead nor, on some image, not finite,
            or the strongest of them.
    """

    deviations: Deviations
    correlation: Tensor
    r2: Tensor
    correlation_chance: Tensor
    images: Tensor
    parts: Tensor
    category: Tensor
    dead: Tensor
    taken: Tensor

    def by_filter(self, rule: CategoryRule = "least") -> Deviations:
        """Instability of each filter and of its references, each ``(F,)`` float64.

        Args:
            rule: With several categories, ``"least"`` takes that of the least mean_k D_fk, as the paper has it, for
                the filter and for each reference on its own (a blind filter may choose as well); ``"peak"`` that of
                the filter's largest mean peak, as the published code has it.
        """
        means = [self._mean_over_parts(values) for values in self.deviations]
        if rule == "peak":
            return Deviations(*(_at(values, self.category) for values in means))
        least = (values.nan_to_num(nan=torch.inf).amin(1) for values in means)
        return Deviations(*(values.masked_fill(values.isinf(), torch.nan) for values in least))

    def assigned_part(self) -> Tensor:
        """``(F,)`` int64, the landmark of the filter's category that it correlates with most; -1 if there is none."""
        return largest_column(_at(self.correlation, self.category))

    def summary(self, rule: CategoryRule = "least") -> dict[str, float]:
        """Figures of the layer, means over the filters that have a score.

        Returns:
            ``instability`` and those of its references (``random``, ``centre``, ``best_constant``, ``oracle``);
            ``beats_centre`` and ``beats_best_constant``, the share of filters that are steadier than these;
            ``correlation`` and ``r2`` with the assigned part, ``correlation_chance`` the largest one with landmarks of
            other images (what the choice of the best part alone gives); ``dead`` and ``undefined``, the number of
            filters never above 0 and of those taken that have too few images. NaN where no filter has a score.
        """
        own = self.by_filter(rule)
        scored = ~own.filter.isnan()
        part = self.assigned_part()
        chance = _at(self.correlation_chance, self.category).nan_to_num(nan=-torch.inf).amax(1)
        figures = {"instability" if name == "filter" else name: value for name, value in own._asdict().items()}
        figures |= {f"beats_{name}": (own.filter < figures[name]).double() for name in ("centre", "best_constant")}
        figures |= {
            "correlation": _at(_at(self.correlation, self.category), part),
            "r2": _at(_at(self.r2, self.category), part),
            "correlation_chance": chance.masked_fill(chance.isinf(), torch.nan),
        }
        means = {name: float(value[scored].nanmean()) for name, value in figures.items()}
        return means | {"dead": int(self.dead.sum()), "undefined": int((self.taken & ~scored).sum())}

    def _mean_over_parts(self, values: Tensor) -> Tensor:
        """``(F, C)``, mean over Part_c; NaN where one of them is, as published, and for a category without parts."""
        return torch.where(self.parts, values, 0.0).sum(2) / self.parts.sum(1)


def location_scores(
    peaks: Peaks,
    landmarks: Tensor,
    grid: Grid,
    *,
    category: Tensor | None = None,
    variant: Variant = "cvpr2018",
    top_k: int | None = None,
) -> LocationScores:
    """Location instability of every filter for every landmark, with references and displacement correlations.

    ``"cvpr2018"`` (Zhang, Wu and Zhu 2018): of the images that show the landmark, the 100 with the highest peaks; all
    filters. ``"aaai2018"`` (Zhang et al. 2018, explanatory graphs): the 20 images with the highest peaks, of which
    those without the landmark are dropped, not replaced; the 167 filters with the largest mean of their top peaks. Dead
    filters, which the published code scores like others, are left out here, and those that gave a NaN or an infinity.

    Args:
        peaks: Of N images, all seen but for those to leave out; landmarks of images without a peak are not used.
        landmarks: ``(N, K, 2)`` float64, x and y in pixels of the image; NaN where absent.
        grid: The map's place on the image: rows and columns of cells, their receptive fields' centres (first + i *
            step), and the image's height and width.
        category: ``(N,)`` int64 from 0, category of every image, -1 for images to leave out; None for a single one.
        variant: Which images and filters count.
        top_k: Images a filter, if not those of :data:`TOP_IMAGES`.

    Raises:
        ValueError: If the numbers of images differ, or a peak lies outside the grid.
    """
    _check_cells(peaks, grid)
    points = [peak_points(peaks.cell, grid)]
    return point_scores(points, peaks.value, landmarks, grid, category=category, variant=variant, top_k=top_k)[0]


def point_scores(
    points: Sequence[Tensor],
    value: Tensor,
    landmarks: Tensor,
    grid: Grid,
    *,
    category: Tensor | None = None,
    variant: Variant = "cvpr2018",
    top_k: int | None = None,
) -> list[LocationScores]:
    """The same for points that need not be cells, and for several points of the same filters on the same images.

    Args:
        points: Each ``(N, F, 2)`` floating point, x and y in pixels. An image where the first of them is NaN does not
            count; there the others may be anything.
        value: ``(N, F)``, by which images and filters are ranked.
        landmarks: See :func:`location_scores`, as for what follows.
        grid: For the references.
        category: Of every image.
        variant: Which images and filters count.
        top_k: Images a filter.

    Returns:
        As many as points.

    Raises:
        ValueError: If the numbers of images differ.
    """
    category = torch.zeros(len(landmarks), dtype=torch.int64) if category is None else category
    if len({len(value), len(landmarks), len(category), *map(len, points)}) > 1:
        raise ValueError(f"{len(value)} peaks, {len(landmarks)} landmarks and {len(category)} categories")
    k = TOP_IMAGES[variant] if top_k is None else top_k
    num_categories = max(int(category.max()), 0) + 1
    dead, nonfinite = unscored(value[category >= 0])
    left_out = dead | nonfinite
    located = ~points[0].isnan().any(2) & ~left_out
    taken = ~left_out & _strongest(value, located, k) if variant == "aaai2018" else ~left_out
    shown = ~landmarks.isnan().any(2)
    member = category == torch.arange(num_categories)[:, None]
    blocks = []
    for filters in torch.tensor_split(taken.nonzero()[:, 0], -(-int(taken.sum()) // _BLOCK) or 1):
        own = [each[:, filters] for each in points]
        blocks.append(_tables(own, value[:, filters], located[:, filters], landmarks, member, grid, (k, variant)))
    parts = member.double() @ shown.double() >= 2
    peak_category = largest_column(class_means(value, category, num_categories)).masked_fill(left_out, -1)
    found = []
    for tables in zip(*blocks, strict=True):
        table = _Column(*(_all_filters(torch.cat(values), taken) for values in zip(*tables, strict=True)))
        steady = Deviations(table.filter, table.random, table.centre, table.best_constant, table.oracle)
        moves = table.correlation, table.r2, table.correlation_chance
        found.append(LocationScores(steady, *moves, table.images, parts, peak_category, dead, taken))
    return found


# Filters at a time: few enough that what is computed of them stays in the processor's cache.
_BLOCK = 512


def _all_filters(values: Tensor, taken: Tensor) -> Tensor:
    """``(F, C, K)`` of ``(F', C, K)`` values of the filters that are taken; NaN, or 0 images, for the others."""
    empty = math.nan if values.is_floating_point() else 0
    whole = torch.full((len(taken), *values.shape[1:]), empty, dtype=values.dtype)
    whole[taken] = values
    return whole


def _check_cells(peaks: Peaks, grid: Grid) -> None:
    if int(peaks.cell.max()) >= grid.rows.length * grid.columns.length:
        raise ValueError(f"a peak at cell {int(peaks.cell.max())} of {grid.rows.length} x {grid.columns.length}")


class _Column(NamedTuple):
    """One landmark of one category, each ``(F,)``: the deviations, then what else is measured on the same images."""

    filter: Tensor
    random: Tensor
    centre: Tensor
    best_constant: Tensor
    oracle: Tensor
    correlation: Tensor
    r2: Tensor
    correlation_chance: Tensor
    images: Tensor


def _tables(
    points: Sequence[Tensor],
    value: Tensor,
    located: Tensor,
    landmarks: Tensor,
    member: Tensor,
    grid: Grid,
    choice: tuple[int, Variant],
) -> list[_Column]:
    """For each of the points the measures of all filters, each ``(F, C, K)``; ``(C, N)`` images of each category."""
    tables: list[list[_Column]] = [[] for _ in points]
    for rows in member:
        own = [each[rows] for each in points]
        for place in landmarks[rows].double().unbind(1):
            chosen = _choose(value[rows], located[rows], ~place.isnan().any(1), *choice)
            references = constants(place, chosen, grid)
            for columns, each in zip(tables, own, strict=True):
                columns.append(_column(each, place, chosen, references, grid))
    shape = -1, len(member), landmarks.shape[1]
    return [_Column(*(torch.stack(v, 1).view(shape) for v in zip(*columns, strict=True))) for columns in tables]


def _column(points: Tensor, landmark: Tensor, chosen: Chosen, references: Constants, grid: Grid) -> _Column:
    rows, valid = chosen
    at_peaks = points[rows, torch.arange(rows.shape[1])]
    own = point_deviation(at_peaks, landmark[rows], valid, grid)
    moves = displacement(at_peaks, landmark[rows], valid)
    chance = displacement(at_peaks, _of_other_images(landmark)[rows], valid).correlation
    return _Column(own, *references, *moves, chance, valid.sum(0))


def _choose(value: Tensor, located: Tensor, shown: Tensor, k: int, variant: Variant) -> Chosen:
    """The images that each filter is judged by for one landmark, which ``(N,)`` images show."""
    if variant == "cvpr2018":
        return top_images(value, located & shown[:, None], k)
    rows, valid = top_images(value, located, k)
    return Chosen(rows, valid & shown[rows])


def _strongest(value: Tensor, located: Tensor, k: int) -> Tensor:
    """``(F,)`` bool, the filters with the largest mean of their top peaks; of equal ones the first."""
    rows, valid = top_images(value, located, k)
    top = torch.where(valid, value.gather(0, rows).double(), 0.0).sum(0) / valid.sum(0)
    order = top.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
    strongest = torch.zeros(len(top), dtype=torch.bool)
    strongest[order[:STRONGEST]] = True
    return strongest


def _of_other_images(landmark: Tensor) -> Tensor:
    """``(N, 2)``, every image with the landmark of another one that shows it; NaN where there is none."""
    partners = cyclic_partners((~landmark.isnan().any(1)).nonzero()[:, 0].tolist())
    others = torch.full_like(landmark, torch.nan)
    others[list(partners)] = landmark[list(partners.values())]
    return others


def _at(values: Tensor, index: Tensor) -> Tensor:
    """``values[f, index[f]]`` of ``(F, C, ...)``; NaN for a negative index."""
    chosen = values[torch.arange(len(values)), index.clamp(min=0)]
    return chosen.masked_fill((index < 0).view(-1, *[1] * (chosen.ndim - 1)), torch.nan)
