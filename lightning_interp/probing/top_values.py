"""The largest values of each unit: all that an upper quantile needs."""

import math

import torch
from torch import Tensor

from lightning_interp.functional.quantile import Reduce, quantile_rank, upper_quantile


class TopValues:
    """Running exact upper quantile of each unit.

    Keeps each unit's ``m`` largest values (:func:`~lightning_interp.functional.quantile.quantile_rank`); the
    smallest of them bounds the final threshold from below and only rises, so that values, and whole maps, under
    the bound can be let go at once. Its two collective steps are its own: a torchmetrics state would be gathered.

    Args:
        num_units: U.
        count: Values of a unit over the whole probe set and all processes, at most.
        quantile: Share of values above the threshold.
        dtype: float32, or float64 for upsampled values.
        device: Where the values are.
    """

    def __init__(self, num_units: int, count: int, quantile: float, dtype: torch.dtype, device: torch.device) -> None:
        self.quantile = quantile
        self.m = quantile_rank(count, quantile)[0]
        self.bound = torch.full((num_units,), -math.inf, dtype=torch.float64, device=device)
        self._values = torch.full((num_units, 0), -math.inf, dtype=dtype, device=device)
        self._filled = torch.zeros(num_units, dtype=torch.int64, device=device)

    def update(self, values: Tensor) -> None:
        """Take in ``(U, L)`` values (``-inf`` for "none")."""
        if self._values.shape[1] < self.m:
            self._settle(torch.cat([self._values, values], 1))
            return
        unit, place = (values > self.bound[:, None]).nonzero(as_tuple=True)
        self.add(unit, values[unit, place])

    def add(self, unit: Tensor, values: Tensor) -> None:
        """Take in single values ``(P,)`` of the units ``(P,)``, given unit by unit."""
        counts = torch.bincount(unit, minlength=len(self.bound))
        needed = self._filled + counts
        if int(needed.max()) > self._values.shape[1]:
            self._settle(self._values)
            needed = self._filled + counts
            # Half as much again as must be kept, so that settling stays rare.
            room = max(int(needed.max()), self.m + self.m // 2 + 1)
            padding = self._values.new_full((len(self.bound), room - self._values.shape[1]), -math.inf)
            self._values = torch.cat([self._values, padding], 1)
        rank = torch.arange(len(unit), device=unit.device) - (counts.cumsum(0) - counts)[unit]
        self._values[unit, self._filled[unit] + rank] = values
        self._filled = needed

    def guess(self, margin: float) -> Tensor:
        """``(U,)`` float64, what the final threshold will hardly fall below, from the values so far; no bound.

        Equal to :attr:`bound` once that is known. Before, while every value is still kept, the quantile of those
        at ``margin`` times the share.
        """
        if bool((self.bound > -math.inf).all()):
            return self.bound
        kept = self._values.shape[1]
        rank = torch.ceil(margin * self.quantile * self._filled).clamp(1, max(kept, 1)).long()
        if not kept:
            return self.bound
        ordered = self._values.topk(int(rank.max()), dim=1).values
        return torch.maximum(self.bound, ordered.gather(1, rank[:, None] - 1)[:, 0].double())

    def _settle(self, values: Tensor) -> None:
        """Keep the m largest and raise the bound."""
        self._values = values.topk(min(self.m, values.shape[1]), dim=1).values
        self._filled = (self._values > -math.inf).sum(1)
        if self._values.shape[1] == self.m:
            self.bound = torch.maximum(self.bound, self._values[:, -1].double())

    def threshold(
        self,
        count: int,
        reduce_sum: Reduce = lambda counts: counts,
        reduce_min: Reduce = lambda least: least,
    ) -> Tensor:
        """``(U,)`` float64, the quantile of ``count`` values over all processes; collective if the reductions are."""
        self._settle(self._values)
        return upper_quantile(self._values, count, self.quantile, reduce_sum, reduce_min)
