"""The label-conditioned filter loss: a filter should fire at one place, and on images of its own class only."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.reduction import LOCAL, Reduction
from lightning_interp.methods.filters.maths.filter_templates import (
    Centre,
    Template,
    check_maps,
    filter_templates,
    in_float32,
)

# Name, symbol and value of the released code: half a nat of energy is one step of the exponential.
_ALPHA = 0.5


class FilterLoss(NamedTuple):
    """A filter loss and what to watch beside it; all but ``loss`` without gradient and over all processes.

    Attributes:
        loss: Scalar, of this process' images.
        positives: ``(F,)`` float, images of each filter's class; where it is 0 the filter adds nothing.
        dead: ``(F,)`` bool, filters that fired on no image.
        mean_peak: Scalar, mean over images and filters of a map's largest value: where it grows from step to step, the
            loss inflates the activations.
        negative_share: Scalar, share of the images' weights that were below 0 before they were clamped.
    """

    loss: Tensor
    positives: Tensor
    dead: Tensor
    mean_peak: Tensor
    negative_share: Tensor


def label_conditioned(
    x: Tensor,
    labels: Tensor,
    assignment: Tensor,
    density: Tensor | None = None,
    template: Template = "code",
    centre: Centre = "argmax",
    reduction: Reduction = LOCAL,
    released: bool = False,
) -> FilterLoss:
    """The differentiable loss whose gradient is that of the code released with interpretable CNNs (CVPR 2018).

    ``1/B sum_f [ -w+ sum_{b in P} u_fb mean_ij(T_fb x_fb) + w- sum_{b not in P} v_fb mean_ij(x_fb) ]``, P the images of
    the filter's class, T the template at the map's centre; T, u and v are constants. The authors' MATLAB code has no
    loss, only this gradient (times H W lambda, lambda = 1e-6 / epoch), and it is not the formula of the paper. With
    s = mean(T x), m = mean(x) and a = 1/2, the weights are ``u ~ exp(s/a) (s - log Z+ + a)`` over the images of P and
    ``v ~ exp(-m/a) (-m - log Z- + a)`` over the others, each of mean 1; ``log Z- = a log mean exp(-m/a)`` over all
    images, and log Z+ likewise of s with the template of another filter.

    This project's own changes, without which large activations leave the gradient to one image or turn it round: for
    the weights alone, a filter's activations are divided by their largest value in the batch; a weight below 0 is 0;
    the template of another filter is that of the same image, so that the batch can be split. ``released`` undoes them.

    A filter without an image of its class adds nothing, and one that only has such images adds its first term. The
    loss is not bounded: a weight too high inflates the activations. NaN and infinite activations make it NaN.

    Args:
        x: ``(B, F, H, W)`` float of at least 0: after a ReLU.
        labels: ``(B,)`` int64 classes, or ``(B, K)`` bool, the classes that an image belongs to.
        assignment: ``(F,)`` int64, the class of each filter.
        density: ``(K,)`` float in (0, 1), share of the training images that belong to each class: w+ is its half by
            the density, w- its half by one minus it; 1 where that share is 0 or NaN. None for weights of 1.
        template: See :func:`~lightning_interp.methods.filters.maths.filter_templates.templates_at`.
        centre: See :func:`~lightning_interp.methods.filters.maths.filter_templates.map_centres`.
        reduction: Makes the statistics those of all processes, in three calls of a few ``F`` numbers. The mean of loss
            and gradient over processes with equally many images is then that of the whole batch.
        released: Weights as in the released code, which pairs different images too: no split gives the same.

    Returns:
        Loss and diagnostics; the loss in float32 at least.

    Raises:
        ValueError: If the maps are 1 x 1 or no maps, or labels or assignment do not fit them.
    """
    check_maps(x)
    positive = _positives(x, labels, assignment)
    # exp, means and argmax of half-precision values are off, whatever the training's precision.
    with torch.autocast(x.device.type, enabled=False):
        x = in_float32(x)
        with torch.no_grad():
            templates = filter_templates(x, template, centre)
            found = _weigh(x, templates, positive, reduction, released)
            toward, away = (found.weights * _class_weights(found.images, assignment, density)[:, None])[..., None, None]
            slope = away - toward * templates
        loss = (slope * x).mean((2, 3)).sum() / len(x)
    count = found.images.sum()
    return FilterLoss(loss, found.images[0], found.peaks == 0, found.peaks.sum() / count, found.negative.sum() / count)


def _positives(x: Tensor, labels: Tensor, assignment: Tensor) -> Tensor:
    """``(B, F)`` bool: whether an image is of a filter's class."""
    if assignment.shape != x.shape[1:2]:
        raise ValueError(f"assignment of shape {tuple(assignment.shape)} does not fit maps of shape {tuple(x.shape)}")
    if labels.dtype == torch.int64 and labels.shape == x.shape[:1]:
        return labels[:, None] == assignment
    if labels.dtype == torch.bool and labels.ndim == 2 and len(labels) == len(x):
        return labels[:, assignment]
    raise ValueError(
        f"labels must be (B,) int64 or (B, K) bool for maps of shape {tuple(x.shape)}, "
        f"got {tuple(labels.shape)} of {labels.dtype}"
    )


class _Weighed(NamedTuple):
    """Weights of this process' images, and what the images of all processes have in common.

    Attributes:
        weights: ``(2, B, F)``, u of the images of the filter's class and v of the others, each of mean 1 or all 0.
        images: ``(2, F)``, images of the filter's class, and others.
        peaks: ``(F,)``, sum over images of a map's largest activation.
        negative: ``(F,)``, weights below 0.
    """

    weights: Tensor
    images: Tensor
    peaks: Tensor
    negative: Tensor


def _weigh(x: Tensor, templates: Tensor, positive: Tensor, reduction: Reduction, released: bool) -> _Weighed:
    others = templates.flip((0, 1) if released else (1,))
    peak, background = x.amax((2, 3)), -x.mean((2, 3))
    energy = torch.stack([(x * templates).mean((2, 3)), background])
    chance = torch.stack([(x * others).mean((2, 3)), background])
    member = torch.stack([positive, ~positive])

    belonging = energy.where(member, -torch.inf)
    tops = reduction.max(torch.cat([peak.amax(0)[None], chance.amax(1), belonging.amax(1)]))
    largest, chance_top, top = tops[0], tops[1:3], tops[3:]
    scale = _ALPHA * (torch.ones_like(largest) if released else largest.where(largest != 0, 1.0))

    # All in units of alpha, and shifted by the maximum, for exp overflows.
    sums = reduction.sum(
        torch.stack([*((chance - chance_top[:, None]) / scale).exp().sum(1), torch.full_like(largest, len(x))])
    )
    log_z = chance_top / scale + (sums[:2] / sums[2]).log()
    bracket = energy / scale - log_z[:, None] + 1
    raw = ((energy - top[:, None]) / scale).exp() * (bracket if released else bracket.clamp(min=0))
    raw = raw.where(member, 0.0)

    negative = (member & (bracket < 0)).sum((0, 1))
    sums = reduction.sum(torch.stack([*raw.sum(1), *member.sum(1), negative, peak.sum(0)]))
    total, images = sums[:2], sums[2:4]
    # Not "> 0": NaN on one process must be NaN on all.
    weights = (raw * (images / total)[:, None]).where((total != 0)[:, None], 0.0)
    return _Weighed(weights, images, sums[5], sums[4])


def _class_weights(images: Tensor, assignment: Tensor, density: Tensor | None) -> Tensor:
    """``(2, F)``: w+ and w-; 0 on a side without images, and on both sides of a filter without one of its class.

    A side that the density does not know, because its share is 0 or NaN, weighs 1.
    """
    weights = torch.ones_like(images)
    if density is not None:
        share = density.to(images)[assignment]
        sides = torch.stack([share, 1 - share])
        weights = 0.5 / sides.where(sides > 0, 0.5)
    return weights.where((images > 0) & (images[0] > 0), 0.0)
