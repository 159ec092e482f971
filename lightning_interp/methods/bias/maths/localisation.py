"""Where an attribution lies: inside the region that should matter, or elsewhere; image by image, with chance.

Every measure wants one non-negative map an image. Making it so is the caller's duty, for the right way depends on the
map: the positive part (``clamp(min=0)``) of signed contributions (Grad-CAM, LRP, gradient x activation), the absolute
value of gradients. A negative entry is refused, because it takes shares out of [0, 1].

Equal values are ranked as by a fair draw, in expectation: a map without any preference gets exactly what chance gives.
Images whose region is empty or covers everything, and maps that are zero or not finite, have no score: NaN by image,
left out of the sums and counted there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.moments import Estimate, joint_moments, mean_estimate

MEASURES = ("mass", "rank", "pointing", "attention_iou")
"""Measures of :func:`localisation_sums`, in its order."""

RIGHT_REASONS = ("rrr",)
"""The measure of :func:`right_reasons_sums`."""

_SKIPPED = 3
_JOINT = 6


class Located(NamedTuple):
    """One measure over the images that have a score.

    Attributes:
        score: Mean and its 95 % normal interval.
        chance: Mean of what a map without preference gets.
        enrichment: ``score / chance``: 1 for no preference.
    """

    score: Estimate
    chance: float
    enrichment: float


@dataclass(frozen=True)
class Localisation:
    """Scores of a set of images.

    Args:
        measures: By name.
        count: Images with a score.
        empty: Images skipped since their region has no pixel.
        full: Images skipped since their region covers the whole image.
        silent: Images skipped since their map is zero or not finite.
    """

    measures: Mapping[str, Located]
    count: int
    empty: int
    full: int
    silent: int


def relevance_mass(attributions: Tensor, masks: Tensor) -> Tensor:
    """Relevance mass accuracy (Arras et al. 2022): share of the attribution that lies in the region.

    On the positive part it is also the energy-based pointing game (Score-CAM, Wang et al. 2020) and the attribution
    localisation of Kohlbrenner et al. 2020, whose size-weighted form is the enrichment (mass over area).

    Args:
        attributions: ``(B, H, W)`` floating point, not negative.
        masks: ``(B, H, W)`` bool, the region.

    Returns:
        ``(B,)`` float64 in [0, 1], NaN for skipped images; chance is the region's :func:`area`.

    Raises:
        ValueError: If the shapes differ, the masks are not bool or an attribution is negative.
    """
    maps = _prepare(attributions, masks)
    return maps.scored((maps.share * maps.inside).sum(1))


def relevance_rank(attributions: Tensor, masks: Tensor) -> Tensor:
    """Relevance rank accuracy (Arras et al. 2022): of the K largest values, the share in the region of K pixels.

    Of values equal to the K-th largest, those needed count in proportion to how many of them lie inside; a map that is
    zero on most pixels, such as Grad-CAM's, would otherwise be scored by the order of its pixels.

    Args:
        attributions: As in :func:`relevance_mass`.
        masks: As in :func:`relevance_mass`.

    Returns:
        ``(B,)`` float64 in [0, 1], NaN for skipped images; chance is the region's :func:`area`.

    Raises:
        ValueError: As :func:`relevance_mass`.
    """
    maps = _prepare(attributions, masks)
    size = maps.inside.sum(1, keepdim=True)
    bar = maps.share.sort(dim=1, descending=True).values.gather(1, (size - 1).clamp(min=0))
    above, tied = maps.share > bar, maps.share == bar
    needed = size[:, 0] - above.sum(1)
    hits = (above & maps.inside).sum(1) + needed * (tied & maps.inside).sum(1) / tied.sum(1)
    return maps.scored(hits / size[:, 0])


def pointing_game(attributions: Tensor, masks: Tensor) -> Tensor:
    """Pointing game (J. Zhang et al. 2018): whether the maximum lies in the region.

    Of several equal maxima it is the share inside, so that one outside is never rewarded.

    Args:
        attributions: As in :func:`relevance_mass`.
        masks: As in :func:`relevance_mass`.

    Returns:
        ``(B,)`` float64 in [0, 1], 0 or 1 without ties, NaN for skipped images; chance is the region's :func:`area`.

    Raises:
        ValueError: As :func:`relevance_mass`.
    """
    maps = _prepare(attributions, masks)
    top = maps.share == maps.share.amax(1, keepdim=True)
    return maps.scored((top & maps.inside).sum(1).double() / top.sum(1))


def attention_iou(attributions: Tensor, masks: Tensor) -> Tensor:
    """Attention-IoU (Serianni et al. 2025): ``sum(a m) / sum(((a + m) / 2)^2)``, a and m each of sum 1.

    1 if the attribution is spread evenly over the region and nowhere else. It depends on the region's size: compare
    networks or attributes on one region, not regions.

    Args:
        attributions: As in :func:`relevance_mass`.
        masks: As in :func:`relevance_mass`.

    Returns:
        ``(B,)`` float64 in [0, 1], NaN for skipped images; chance is :func:`uniform_iou` of the region's area.

    Raises:
        ValueError: As :func:`relevance_mass`.
    """
    maps = _prepare(attributions, masks)
    region = maps.inside / maps.inside.sum(1, keepdim=True)
    overlap = (maps.share * region).sum(1)
    return maps.scored(overlap / ((maps.share + region) / 2).square().sum(1))


def right_reasons_share(gradients: Tensor, masks: Tensor) -> Tensor:
    """Share of the squared input gradient outside the region, the penalty of Ross et al. (IJCAI 2017) as a measure.

    Args:
        gradients: ``(B, C, H, W)`` floating point, of sum_k log p_k with respect to the image.
        masks: ``(B, H, W)`` bool, the region.

    Returns:
        ``(B,)`` float64 in [0, 1], small where the network is right for the right reasons, NaN for skipped images;
        chance is ``1 - area``.

    Raises:
        ValueError: As :func:`relevance_mass`.
    """
    return 1 - relevance_mass(_energy(gradients), masks)


def area(masks: Tensor) -> Tensor:
    """``(B,)`` float64, the region's share of the image, from masks ``(B, H, W)`` bool."""
    return masks.flatten(1).double().mean(1)


def uniform_iou(areas: Tensor) -> Tensor:
    """Attention-IoU of a uniform map with regions of the given areas, ``4 p / (1 + 3 p)``; any shape, float64."""
    return 4 * areas / (1 + 3 * areas)


def localisation_sums(attributions: Tensor, masks: Tensor) -> Tensor:
    """Sums of all of :data:`MEASURES` over a batch.

    Args:
        attributions: As in :func:`relevance_mass`.
        masks: As in :func:`relevance_mass`.

    Returns:
        ``(27,)`` float64 for :func:`localisation_scores`; sums of batches are the sums of the whole.

    Raises:
        ValueError: As :func:`relevance_mass`.
    """
    measures = (relevance_mass, relevance_rank, pointing_game, attention_iou)
    scores = torch.stack([measure(attributions, masks) for measure in measures], dim=1)
    areas = area(masks)
    chance = torch.stack([areas, areas, areas, uniform_iou(areas)], dim=1)
    return _sums(scores, chance, _prepare(attributions, masks))


def right_reasons_sums(gradients: Tensor, masks: Tensor) -> Tensor:
    """Sums of :func:`right_reasons_share` over a batch, with the same arguments and errors.

    Returns:
        ``(9,)`` float64 for :func:`localisation_scores` with :data:`RIGHT_REASONS`.
    """
    scores, chance = right_reasons_share(gradients, masks), 1 - area(masks)
    return _sums(scores[:, None], chance[:, None], _prepare(_energy(gradients), masks))


def localisation_scores(sums: Tensor, names: Sequence[str] = MEASURES) -> Localisation:
    """Scores from sums over any number of batches and processes.

    Args:
        sums: Of :func:`localisation_sums`, or of :func:`right_reasons_sums`.
        names: :data:`MEASURES` or :data:`RIGHT_REASONS`.

    Returns:
        The scores; NaN where no image has one.
    """
    empty, full, silent = (int(number) for number in sums[:_SKIPPED])
    rows = sums[_SKIPPED:].view(len(names), _JOINT)
    measures = {name: _located(row) for name, row in zip(names, rows, strict=True)}
    return Localisation(measures, int(rows[0, 0]), empty, full, silent)


def _located(sums: Tensor) -> Located:
    """One measure from the joint sums of score and chance."""
    n, score, chance, squares = sums[:4]
    return Located(mean_estimate(torch.stack([n, score, squares])), float(chance / n), float(score / chance))


def _energy(gradients: Tensor) -> Tensor:
    # Squared in float64: small gradients would vanish in float32.
    return gradients.double().square().sum(1)


class _Maps(NamedTuple):
    """Maps ``(B, H * W)`` float64 of sum 1, regions ``(B, H * W)``, and why ``(B,)`` images are skipped."""

    share: Tensor
    inside: Tensor
    empty: Tensor
    full: Tensor
    silent: Tensor

    def scored(self, scores: Tensor) -> Tensor:
        """The scores, NaN where the image is skipped."""
        return torch.where(self.empty | self.full | self.silent, torch.nan, scores)


def _prepare(attributions: Tensor, masks: Tensor) -> _Maps:
    if attributions.ndim != 3 or attributions.shape != masks.shape or masks.dtype != torch.bool:
        raise ValueError(
            f"attributions {tuple(attributions.shape)} and masks {tuple(masks.shape)} of {masks.dtype}: "
            "give (B, H, W) twice, masks as bool"
        )
    values, inside = attributions.flatten(1).double(), masks.flatten(1)
    if bool((values < 0).any()):
        raise ValueError("attributions are negative; give the positive part of contributions, abs() of gradients")
    # Through the maximum, so that the sum of very large values is finite and that of very small ones not rounded.
    values = values / values.amax(1, keepdim=True)
    silent = ~values.isfinite().all(1)
    empty, full = ~inside.any(1), inside.all(1)
    return _Maps(values / values.sum(1, keepdim=True), inside, empty, full, silent & ~empty & ~full)


def _sums(scores: Tensor, chance: Tensor, maps: _Maps) -> Tensor:
    """Skipped images by reason, then :func:`joint_moments` of ``(B, M)`` scores and their chance, flat."""
    skipped = torch.stack([maps.empty, maps.full, maps.silent]).sum(1).double()
    return torch.cat([skipped, joint_moments(scores, chance).flatten()])
