"""The images that excite each unit most."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.functional.quantile import from_sortable_bits, sortable_bits

_EMPTY = torch.iinfo(torch.int64).min


class Winners(NamedTuple):
    """Result of :class:`TopActivations`: shapes ``(U, k)``, ``(U, k)``, ``(U, k, 2)``, ``(U, k, h, w)``."""

    image: Tensor
    score: Tensor
    peak: Tensor
    maps: Tensor


class TopActivations(Metric):
    """Running top k images of each unit by the maximum of its map, with the place of that maximum and the map.

    Equal maxima are ranked by lower data-set index, so the result does not depend on batches or processes.

    States, gathered over processes: ``key`` ``(U, k)`` int64, ordering of score and index in one number;
    ``peak`` ``(U, k)`` int64, flat position; ``maps`` ``(U, k, h * w)`` float32.
    """

    full_state_update = False
    key: Tensor
    peak: Tensor
    maps: Tensor

    def __init__(self, num_units: int, height: int, width: int, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k, self.width = k, width
        self.add_state("key", torch.full((num_units, k), _EMPTY), None)
        self.add_state("peak", torch.zeros(num_units, k, dtype=torch.int64), None)
        self.add_state("maps", torch.zeros(num_units, k, height * width), None)

    def update(self, maps: Tensor, peaks: Tensor, indices: Tensor) -> None:
        """Take in maps ``(B, U, h, w)`` with their maxima ``(B, U)`` and data-set indices ``(B,)``."""
        # Score first, then the lower index: 32 bits of each, so indices must stay below 2^32.
        key = (sortable_bits(peaks.float()) << 32) | (2**32 - 1 - indices[:, None])
        key = torch.where(peaks.isfinite(), key, _EMPTY)
        count = min(self.k, len(maps))
        best, row = key.topk(count, dim=0)
        new = best > self.key[:, -1]
        if not new.any():
            return
        slot, unit = new.nonzero(as_tuple=True)
        chosen = maps[row[slot, unit], unit].flatten(1)
        peak = torch.zeros(count, len(self.key), dtype=torch.int64, device=maps.device)
        peak[slot, unit] = _first_peak(chosen)
        candidates = torch.zeros(count, len(self.key), chosen.shape[1], device=maps.device)
        candidates[slot, unit] = chosen
        best = torch.where(new, best, _EMPTY)
        self._merge(best.T, peak.T, candidates.transpose(0, 1))

    def _merge(self, key: Tensor, peak: Tensor, maps: Tensor) -> None:
        self.key, order = torch.cat([self.key, key], 1).topk(self.k, dim=1)
        self.peak = torch.cat([self.peak, peak], 1).gather(1, order)
        unit = torch.arange(len(order), device=order.device)[:, None]
        self.maps = torch.cat([self.maps, maps], 1)[unit, order]

    def compute(self) -> Winners:
        """The winners over all processes; empty slots have index -1 and score ``-inf``."""
        if self.key.ndim == 3:
            self.key, self.peak, self.maps = (torch.cat(list(s), 1) for s in (self.key, self.peak, self.maps))
            self._merge(self.key[:, :0], self.peak[:, :0], self.maps[:, :0])
        empty = self.key == _EMPTY
        index = torch.where(empty, -1, 2**32 - 1 - (self.key & (2**32 - 1)))
        score = from_sortable_bits(self.key >> 32, torch.float32).masked_fill(empty, -torch.inf)
        peak = torch.stack([self.peak // self.width, self.peak % self.width], 2)
        return Winners(index, score, peak, self.maps.view(*self.maps.shape[:2], -1, self.width))


def _first_peak(maps: Tensor) -> Tensor:
    """``(M,)`` position of the first maximum of each ``(M, L)`` row."""
    length = maps.shape[1]
    order = torch.arange(length, 0, -1, device=maps.device)
    return (order * (maps == maps.amax(1, keepdim=True))).argmax(1)
