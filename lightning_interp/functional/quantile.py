"""Exact quantiles of streams: how many of the largest values decide one, and their selection over processes."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


def quantile_rank(count: int, quantile: float) -> tuple[int, float]:
    """Which order statistics the upper quantile lies between.

    Args:
        count: Number of values n, at least 1.
        quantile: Share q of values above the threshold, in [0, 1).

    Returns:
        ``(m, fraction)``: the threshold lies ``fraction`` of the way from the m-th largest value to the
        (m-1)-th largest, as ``numpy.quantile(values, 1 - q)`` with its default linear rule has it.

    Example:
        >>> quantile_rank(101, 0.25)
        (26, 0.0)
    """
    virtual = (count - 1) * (1 - quantile)
    lower = min(math.floor(virtual), count - 1)
    return count - lower, virtual - lower


def interpolate_quantile(lower: Tensor, upper: Tensor, fraction: float) -> Tensor:
    """Point between two order statistics, rounded as ``numpy.quantile`` rounds it.

    Args:
        lower: ``(U,)``, the m-th largest value of each unit.
        upper: ``(U,)``, the (m-1)-th largest.
        fraction: Position between them, in [0, 1).

    Returns:
        ``(U,)`` float64.
    """
    low, high = lower.double(), upper.double()
    step = high - low
    return low + step * fraction if fraction < 0.5 else high - step * (1 - fraction)


def sortable_bits(values: Tensor) -> Tensor:
    """Order-preserving int64 image of float32 or float64 values; NaN has no defined place.

    Args:
        values: Any shape; -0.0 and 0.0 are mapped to one key.

    Returns:
        int64 of the same shape; for float32 within [-2^31, 2^31).
    """
    signed = torch.int32 if values.dtype == torch.float32 else torch.int64
    bits = (values + 0.0).view(signed)
    return (bits ^ ((bits >> (31 if signed == torch.int32 else 63)) & torch.iinfo(signed).max)).long()


def from_sortable_bits(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of :func:`sortable_bits` for ``dtype`` float32 or float64."""
    signed = torch.int32 if dtype == torch.float32 else torch.int64
    bits = keys.to(signed)
    return (bits ^ ((bits >> (31 if signed == torch.int32 else 63)) & torch.iinfo(signed).max)).view(dtype)


def kth_largest(values: Tensor, k: int, reduce_sum: Reduce = lambda counts: counts) -> Tensor:
    """The k-th largest value of each unit over the values of all processes, by radix selection.

    Every process passes its own values; only ``(U, 256)`` int64 counts are exchanged, 4 times for float32 and 8
    for float64.

    Args:
        values: ``(U, L)`` float32 or float64; pad with ``-inf``. L may differ between processes, also be 0.
        k: Rank from the top, at least 1 and at most the number of values over all processes.
        reduce_sum: Sums a tensor over the processes.

    Returns:
        ``(U,)`` of the same dtype, equal on every process.

    Example:
        >>> kth_largest(torch.tensor([[3.0, 1.0, 2.0], [-1.0, -3.0, -2.0]]), 2)
        tensor([ 2., -2.])
    """
    units, device = len(values), values.device
    keys = sortable_bits(values).flatten()
    unit = torch.arange(units, device=device).repeat_interleave(values.shape[1])
    wanted = torch.full((units,), k, device=device)
    found = torch.zeros(units, dtype=torch.int64, device=device)
    bits = 8 * values.element_size()
    for shift in range(bits - 8, -1, -8):
        # The top byte carries the sign: shifting it by 128 turns signed order into unsigned order.
        flip = 128 if shift == bits - 8 else 0
        digit = ((keys >> shift) & 255) ^ flip
        counts = reduce_sum(torch.bincount(unit * 256 + digit, minlength=units * 256).view(units, 256))
        from_top = counts.flip(1).cumsum(1)
        reached = (from_top >= wanted[:, None]).int().argmax(1)
        chosen = 255 - reached
        wanted = wanted - torch.where(reached > 0, from_top.gather(1, (reached - 1).clamp(min=0)[:, None])[:, 0], 0)
        found |= (chosen ^ flip) << shift
        keep = digit == chosen[unit]
        keys, unit = keys[keep], unit[keep]
    if values.dtype == torch.float32:
        found = torch.where(found >= 2**31, found - 2**32, found)
    return from_sortable_bits(found, values.dtype)


def upper_quantile(
    values: Tensor,
    count: int,
    quantile: float,
    reduce_sum: Reduce = lambda counts: counts,
    reduce_min: Reduce = lambda least: least,
) -> Tensor:
    """Threshold above which a share ``quantile`` of ``count`` values lies, from the largest of them.

    Args:
        values: ``(U, L)``, this process's part of each unit's values; it must hold those among the m largest of
            all (:func:`quantile_rank`); pad with ``-inf``.
        count: Number of values of a unit over all processes.
        quantile: Share q of values above the threshold.
        reduce_sum: Sums a tensor over the processes.
        reduce_min: Takes the minimum of a tensor over the processes.

    Returns:
        ``(U,)`` float64, equal to ``numpy.quantile(all_values.astype(float64), 1 - q)``.
    """
    m, fraction = quantile_rank(count, quantile)
    lower = kth_largest(values, m, reduce_sum)
    if m == 1:
        return lower.double()
    # The (m-1)-th largest is the m-th again where enough equal values lie there, else the next one above.
    above = values > lower[:, None]
    number_above = reduce_sum(above.sum(1))
    infinity = torch.full_like(values, math.inf)
    least_above = torch.cat([torch.where(above, values, infinity), infinity.new_full((len(values), 1), math.inf)], 1)
    upper = torch.where(number_above >= m - 1, reduce_min(least_above.amin(1)), lower)
    return interpolate_quantile(lower, upper, fraction)


QuantileOn = Literal["low", "upsampled"]
