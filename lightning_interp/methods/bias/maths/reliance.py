"""How much a score depends on a causal region and how much on a context: effects of interventions, from sums.

Each check measures two effects on the score of every image, one of changing the region and one of changing the
context, and sums them up to the ``(8,)`` float64 vector::

    [n, sum a, sum b, sum a^2, sum b^2, sum ab, sum |s|, images left out for a NaN or infinite score]

a is the region's effect, b the context's, s the score of the unchanged image, over the n images that count for both.
Sums over batches and processes are those of the whole; :func:`reliance` turns them into scores. The pictures of the
region are those of Zhang, Wang and Zhu (AAAI 2018, figure 1: a masked mouth, another mouth pasted), the formulae are
this project's own.

Scores are logits: log-odds of 1 for a binary label; for more classes the log-odds of the true class, with 1 for every
label, since such a score is always to go up. Of the labels that give effects their sign, the region's is y. The
context's is y on a split with the training set's bias, and c on a split where y and c are independent: signed by y,
the effect of the context cancels to 0 there.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.functional.moments import (
    UNDEFINED,
    Estimate,
    joint_moments,
    mean_estimate,
    moments,
    share_estimate,
)
from lightning_interp.methods.bias.maths.groups import contingency_table

MIN_SCALE = 0.2
"""Mean absolute logit below which a ratio says nothing."""
MIN_EFFECT = 0.1
"""Sum of both absolute effects, in mean absolute logits, below which a ratio says nothing."""


def occlusion_sums(
    scores: Tensor,
    without_region: Tensor,
    without_context: Tensor,
    region_label: Tensor,
    context_label: Tensor,
    keep: Tensor | None = None,
) -> Tensor:
    """Region occlusion (check C3; after Zeiler and Fergus 2014): what filling the region, or the context, costs.

    The effects are ``sgn(y) (s(x) - s(x with the region filled))`` and the same for the context.

    Args:
        scores: ``(B,)``, s of the images as they are.
        without_region: ``(B,)``, with the region filled.
        without_context: ``(B,)``, with the context filled.
        region_label: ``(B,)`` int64, 0 or 1; negative where unknown, and such an image is left out.
        context_label: ``(B,)`` int64, likewise: y or c (see the module).
        keep: ``(B,)`` bool, images that show both regions; None for all.

    Returns:
        ``(8,)`` float64 sums.

    Raises:
        ValueError: If a label is above 1.
    """
    region = _sign(region_label) * (scores.double() - without_region.double())
    context = _sign(context_label) * (scores.double() - without_context.double())
    return _effect_sums(region, context, scores, _known(keep, region_label, context_label))


def swap_sums(
    scores: Tensor,
    region_swaps: tuple[Tensor, Tensor],
    context_swaps: tuple[Tensor, Tensor],
    region_label: Tensor,
    context_label: Tensor,
    keep: Tensor | None = None,
) -> Tensor:
    """Part swap (check C5): a part from an image of the same label against a part from one of another label.

    The effects are ``sgn(y) (s(region pasted, same label) - s(region pasted, other label))`` and the same for the
    context: what pasting itself does to the score is in both terms.

    Args:
        scores: ``(B,)``, s of the images as they are.
        region_swaps: Two ``(B,)``, s with the region of a donor of the same label and of another label.
        context_swaps: Two ``(B,)``, s with the context of a donor of the same ``context_label`` and of another one.
        region_label: As for :func:`occlusion_sums`.
        context_label: As for :func:`occlusion_sums`.
        keep: ``(B,)`` bool, images that have both regions and all donors; None for all.

    Returns:
        ``(8,)`` float64 sums; :func:`reliance` gives P as ``region``, X as ``context`` and SCR as ``ratio``.

    Raises:
        ValueError: If a label is above 1.
    """
    same, other = (swap.double() for swap in region_swaps)
    context_same, context_other = (swap.double() for swap in context_swaps)
    region = _sign(region_label) * (same - other)
    context = _sign(context_label) * (context_same - context_other)
    return _effect_sums(region, context, scores, _known(keep, region_label, context_label))


def exact_sums(scores: Tensor, region_do: tuple[Tensor, Tensor], context_do: tuple[Tensor, Tensor]) -> Tensor:
    """Exact effects (check C12), where an image can be rendered again with one attribute changed.

    The effects are ``s(do(y=1)) - s(do(y=0))`` and ``s(do(c=1)) - s(do(c=0))``.

    Args:
        scores: ``(B,)``, s of the images as they are.
        region_do: Two ``(B,)``, s under do(y=1) and do(y=0).
        context_do: Two ``(B,)``, s under do(c=1) and do(c=0).

    Returns:
        ``(8,)`` float64 sums; :func:`reliance` gives R* as ``ratio``, and LE and CE, in logits, are ``region.value``
        and ``context.value`` times ``scale``.
    """
    on, off = (score.double() for score in region_do)
    context_on, context_off = (score.double() for score in context_do)
    return _effect_sums(on - off, context_on - context_off, scores, None)


@dataclass(frozen=True)
class Reliance:
    """Reliance of a score on its causal region and on a context; see :func:`reliance`.

    Args:
        images: Number of images that count.
        nonfinite: Number left out because a score was NaN or infinite.
        scale: S, the mean absolute logit of the images as they are.
        region: Mean effect of the region in units of S, signed: e_R, P, or LE / S.
        context: Mean effect of the context in units of S, signed: e_Q, X, or CE / S.
        ratio: Context reliance ``|context| / (|context| + |region|)``: CRR, SCR, or R*. 0 is none, 1 is all; NaN
            without signal.

    The intervals of both effects take S as given. They are NaN without images, and if every score is 0.
    """

    images: int
    nonfinite: int
    scale: float
    region: Estimate
    context: Estimate
    ratio: Estimate


def reliance(sums: Tensor, learnt: bool | None) -> Reliance:
    """Scores of a check from its sums: means first, then absolute values.

    A ratio of mean *absolute* changes would not do: it is far from 0 even for a network that uses no context.

    Args:
        sums: ``(8,)`` float64, of :func:`occlusion_sums`, :func:`swap_sums` or :func:`exact_sums`.
        learnt: Whether the network is known to have learnt anything, for :func:`has_signal`; None for the ratio with
            no regard to signal, as an untrained network gives it for reference.
    """
    n, a, b, aa, bb, ab, absolute, nonfinite = sums.tolist()
    scale = absolute / n if n else math.nan
    region, context = _in_units(scale, n, a, aa), _in_units(scale, n, b, bb)
    signal = learnt is None or has_signal(learnt, scale, region.value, context.value)
    # The context is the share's first part.
    joint = torch.tensor([n, b, a, bb, aa, ab], dtype=torch.float64)
    return Reliance(int(n), int(nonfinite), scale, region, context, share_estimate(joint) if signal else UNDEFINED)


def has_signal(learnt: bool, scale: float, region: float, context: float) -> bool:
    """Whether there is anything whose reliance could be split: a network that has learnt nothing has no bias.

    Before it learns, every ratio is 0.6 to 1, whatever the data. All three must hold, each has failed alone:
    predictions that follow something, mean absolute logit at least :data:`MIN_SCALE`, absolute effects together at
    least :data:`MIN_EFFECT`.

    Args:
        learnt: Whether predictions on these images follow the target's labels or the context's
            (:class:`~lightning_interp.methods.bias.maths.groups.Learnt`).
        scale: S, the mean absolute logit.
        region: Effect of the region in units of S.
        context: Effect of the context in units of S.

    Returns:
        False also if one of them is NaN.
    """
    return learnt and scale >= MIN_SCALE and abs(region) + abs(context) >= MIN_EFFECT


def hit_sums(predicted: Tensor, label: Tensor, keep: Tensor | None = None) -> Tensor:
    """Sums for an accuracy: that with the region filled (C3), or how often a pasted region is followed (C5).

    Args:
        predicted: ``(B,)`` int64, predicted class; negative where the logit was not finite, and such an image is left
            out, as with the label.
        label: ``(B,)`` int64, the class to compare with; for "follow" the label of the donor of the other label.
        keep: ``(B,)`` bool, images that count; None for all.

    Returns:
        ``(3,)`` float64; :func:`~lightning_interp.functional.moments.mean_estimate` gives the accuracy.
    """
    return moments(predicted == label, _known(keep, predicted, label))


def paired_hits(first: Tensor, second: Tensor, label: Tensor, keep: Tensor | None = None) -> Tensor:
    """Count right answers to two versions of every image.

    Args:
        first: ``(B,)`` int64, predicted class; negative where the logit was not finite, and such an image is left
            out, as with the next two.
        second: ``(B,)`` int64, for the other version.
        label: ``(B,)`` int64, true class.
        keep: ``(B,)`` bool, images that have both versions; None for all.

    Returns:
        ``(2, 2)`` int64: images by whether the first version is right and whether the second is.
    """
    known = _known(keep, first, second, label)
    return contingency_table([(first == label)[known], (second == label)[known]], (2, 2))


@dataclass(frozen=True)
class HitRates:
    """Accuracy on two versions of the same images, and what their difference says.

    Args:
        images: Number of images.
        first: Accuracy on the first version; NaN without images.
        second: Accuracy on the second version; likewise.
        score: Foreground sensitivity (:func:`foreground_sensitivity`) or gap (:func:`background_gap`).
    """

    images: int
    first: float
    second: float
    score: Estimate


def foreground_sensitivity(hits: Tensor, learnt: bool) -> HitRates:
    """Relative foreground sensitivity (check C4; Moayeri et al., CVPR 2022, RIVAL10).

    ``RFS = (a_Q - a_R) / (2 min(m, 1 - m))`` with the accuracies a_R under noise in the region and a_Q under noise in
    the context, and m their mean. The interval, by the delta method, is ours.

    Args:
        hits: ``(2, 2)`` int64, of :func:`paired_hits`: noise in the region first, noise in the context second.
        learnt: Whether the accuracy on the images without noise is above chance.

    Returns:
        ``score`` in [-1, 1], above 0 if the region matters more; NaN if both accuracies are 0 or both 1, and if the
        network is not above chance, for then neither can matter.
    """
    table = hits.cpu().double()
    rates = _hit_rates(table)
    if not learnt:
        return HitRates(*rates, UNDEFINED)
    # The same formula as 2 |u| / (|u| + |v|) - 1, with right answers where m is at most 1/2, wrong ones above.
    if rates[1] + rates[2] <= 1:
        u, v, both = table[:, 1].sum(), table[1].sum(), table[1, 1]
    else:
        u, v, both = table[0].sum(), table[:, 0].sum(), table[0, 0]
    part = share_estimate(torch.stack([table.sum(), u, v, u, v, both]))
    return HitRates(*rates, Estimate(*(2 * end - 1 for end in part)))


def background_gap(hits: Tensor) -> HitRates:
    """BG-Gap (check C5b; Xiao et al. 2021, ImageNet-9): accuracy on mixed-same minus accuracy on mixed-rand.

    Args:
        hits: ``(2, 2)`` int64, of :func:`paired_hits`: context of an image of the same class first, of any image
            second.

    Returns:
        ``score``, about 0 for a network that ignores the context *or has learnt nothing*, with the normal interval of
        paired differences.
    """
    table = hits.cpu().double()
    lost, gained = table[1, 0], table[0, 1]
    return HitRates(*_hit_rates(table), mean_estimate(torch.stack([table.sum(), lost - gained, lost + gained])))


def _effect_sums(region: Tensor, context: Tensor, scores: Tensor, known: Tensor | None) -> Tensor:
    """The ``(8,)`` sums of the module from ``(B,)`` float64 effects, scores, and bool images that count."""
    finite = region.isfinite() & context.isfinite() & scores.isfinite()
    counted = finite if known is None else finite & known
    left_out = ~finite if known is None else ~finite & known
    absolute = torch.where(counted, scores.double().abs(), 0.0).sum()
    return torch.cat([joint_moments(region, context, counted), torch.stack([absolute, left_out.sum().double()])])


def _in_units(scale: float, *sums: float) -> Estimate:
    """Mean and interval from n, sum and sum of squares, in units of the scale."""
    return (
        Estimate(*(end / scale for end in mean_estimate(torch.tensor(sums, dtype=torch.float64))))
        if scale
        else UNDEFINED
    )


def _sign(label: Tensor) -> Tensor:
    """``(B,)`` float64, 1 for label 1 and -1 for label 0; unknown ones do not count anyway."""
    if bool((label > 1).any()):
        raise ValueError(f"effects are signed by a binary label, got class number {int(label.max())}")
    return 2 * label.double() - 1


def _known(keep: Tensor | None, *columns: Tensor) -> Tensor:
    """``(B,)`` bool: images to keep whose class numbers are all known."""
    known = torch.stack([values >= 0 for values in columns]).all(dim=0)
    return known if keep is None else known & keep


def _hit_rates(table: Tensor) -> tuple[int, float, float]:
    """Images, and the accuracies on both versions, from the float64 counts of :func:`paired_hits`."""
    number = table.sum()
    return int(number), float(table[1].sum() / number), float(table[:, 1].sum() / number)
