"""Means and their 95 % normal intervals from sums alone, so that any split over batches and processes agrees."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

Z95 = 1.959963984540054
"""Standard normal quantile of 0.975: both ends of every interval here."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; each is NaN where it is undefined.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def moments(values: Tensor, keep: Tensor | None = None) -> Tensor:
    """Count, sum and sum of squares over the first axis.

    Args:
        values: ``(B, ...)``, any real dtype. NaN and infinities are left out, so n tells how many there were.
        keep: Bool, ``(B,)`` or any leading part of the shape of ``values``: what counts; None for everything.

    Returns:
        ``(..., 3)`` float64: n, sum, sum of squares. Sums of parts are the sums of the whole.

    Example:
        >>> moments(torch.tensor([1.0, float("nan"), 3.0])).tolist()
        [2.0, 4.0, 10.0]
    """
    values = values.double()
    counted = _counted(values.isfinite(), keep)
    values = torch.where(counted, values, 0.0)
    return torch.stack([counted.double().sum(0), values.sum(0), values.square().sum(0)], dim=-1)


def joint_moments(first: Tensor, second: Tensor, keep: Tensor | None = None) -> Tensor:
    """Sums of two quantities measured on the same items, over the first axis.

    Args:
        first: ``(B, ...)``, a.
        second: The same shape, b. An item counts if both are finite.
        keep: As in :func:`moments`.

    Returns:
        ``(..., 6)`` float64: n, sums of a, b, a^2, b^2 and ab.
    """
    a, b = first.double(), second.double()
    counted = _counted(a.isfinite() & b.isfinite(), keep)
    a, b = torch.where(counted, a, 0.0), torch.where(counted, b, 0.0)
    return torch.stack([part.sum(0) for part in (counted.double(), a, b, a * a, b * b, a * b)], dim=-1)


def mean(sums: Tensor) -> Tensor:
    """Mean, ``(...)`` float64, from the ``(..., 3)`` sums of :func:`moments`; NaN for n = 0."""
    return sums[..., 1] / sums[..., 0]


def variance(sums: Tensor) -> Tensor:
    """Unbiased variance, ``(...)`` float64, from the ``(..., 3)`` sums of :func:`moments`; NaN for n < 2."""
    n, total, squares = sums.unbind(-1)
    # 0 / 0 for n = 1; rounding may take the sum of squared deviations below 0.
    return ((squares - total * total / n) / (n - 1)).clamp(min=0.0)


def standard_error(sums: Tensor) -> Tensor:
    """Standard error of the mean, ``(...)`` float64, from the ``(..., 3)`` sums of :func:`moments`; NaN for n < 2."""
    return (variance(sums) / sums[..., 0]).sqrt()


def normal_interval(sums: Tensor) -> Tensor:
    """95 % normal interval of the mean, ``(..., 2)`` float64 low and high, from the sums of :func:`moments`.

    NaN for n < 2. Normal, not Student's t: meant for tens of items and more.
    """
    reach = Z95 * standard_error(sums)
    return torch.stack([mean(sums) - reach, mean(sums) + reach], dim=-1)


def mean_estimate(sums: Tensor) -> Estimate:
    """Mean and interval of one quantity, from its ``(3,)`` sums of :func:`moments`."""
    low, high = normal_interval(sums).tolist()
    return Estimate(float(mean(sums)), low, high)


def share(a: float, b: float, covariance: Tensor) -> Estimate:
    """|a| / (|a| + |b|) of two estimated means, with the interval of the delta method clipped to [0, 1].

    The method linearises the ratio, so the interval is rough where |a| + |b| is not large against its standard error,
    and where a or b may be 0: the absolute value folds there.

    Args:
        a: First mean.
        b: Second mean.
        covariance: ``(2, 2)`` float64, covariance of the two estimates (not of single items).

    Returns:
        NaN throughout if a and b are both 0 or one is NaN; a NaN interval if a covariance is NaN.
    """
    whole = abs(a) + abs(b)
    if not whole > 0:
        return UNDEFINED
    slope = torch.tensor([math.copysign(abs(b), a), -math.copysign(abs(a), b)], dtype=torch.float64) / whole**2
    spread = float(slope @ covariance.cpu().double() @ slope)
    # NaN first: max(nan, 0) is NaN, max(0, nan) is 0.
    reach = Z95 * math.sqrt(max(spread, 0.0))
    value = abs(a) / whole
    return Estimate(value, max(value - reach, 0.0), min(value + reach, 1.0))


def share_estimate(sums: Tensor) -> Estimate:
    """|mean a| / (|mean a| + |mean b|) with its interval (:func:`share`), from the ``(6,)`` sums of a and b.

    Args:
        sums: Of :func:`joint_moments`.

    Returns:
        A NaN interval for n < 2, NaN throughout for n = 0 or if both means are 0.
    """
    n = float(sums[0])
    if n == 0:
        return UNDEFINED
    means = sums[1:3] / n
    squares = torch.stack([sums[3], sums[5], sums[5], sums[4]]).view(2, 2)
    centred = squares - n * torch.outer(means, means)
    covariance = centred / (n * (n - 1)) if n > 1 else torch.full_like(centred, math.nan)
    return share(float(means[0]), float(means[1]), covariance)


def _counted(finite: Tensor, keep: Tensor | None) -> Tensor:
    """Which items count: the finite ones that ``keep``, of a leading part of their shape, does not leave out."""
    if keep is None:
        return finite
    return finite & keep.reshape(*keep.shape, *[1] * (finite.ndim - keep.ndim))
