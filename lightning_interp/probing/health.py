"""Which units can be scored at all: finite everywhere, and not one constant."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class UnitHealth(Metric):
    """Range of each unit's activations and how many of them are NaN or infinite.

    States: ``low`` and ``high`` ``(U,)`` float32, reduced by min and max; ``nonfinite`` ``(U,)`` int64, by sum.
    """

    full_state_update = False
    low: Tensor
    high: Tensor
    nonfinite: Tensor

    def __init__(self, num_units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("low", torch.full((num_units,), math.inf), "min")
        self.add_state("high", torch.full((num_units,), -math.inf), "max")
        self.add_state("nonfinite", torch.zeros(num_units, dtype=torch.int64), "sum")

    def update(self, maps: Tensor, low: Tensor, high: Tensor) -> None:
        """Take in maps ``(B, U, h, w)`` with their minima and maxima ``(B, U)``."""
        self.low = torch.minimum(self.low, low.nan_to_num(nan=math.inf).amin(0))
        self.high = torch.maximum(self.high, high.nan_to_num(nan=-math.inf).amax(0))
        broken = ~(low.isfinite() & high.isfinite()).all(0)
        if broken.any():
            self.nonfinite[broken] += (~maps[:, broken].isfinite()).sum((0, 2, 3))

    def compute(self) -> tuple[Tensor, Tensor]:
        """``(nonfinite, constant)``: ``(U,)`` int64 and ``(U,)`` bool, over all processes."""
        return self.nonfinite, (self.low == self.high) & (self.nonfinite == 0)
