"""One layer's exact thresholds and the cells above them, in one forward pass."""

import math
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lightning_interp.functional.quantile import QuantileOn, Reduce, quantile_rank, upper_quantile
from lightning_interp.functional.upsampling import Cells, Grid, hot_cells, upsample_cells
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sums import Sums


class TopValues:
    """Running exact upper quantile of each unit.

    Keeps each unit's ``m`` largest values (:func:`~lightning_interp.functional.quantile.quantile_rank`); the
    smallest of them bounds the final threshold from below and only rises, so that values, and whole maps, under
    the bound can be let go at once. Its two collective steps are its own: what
    :class:`~lightning_interp.probing.sums.Sums` reduces is gathered first.

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


# Upsampled pixels, and values of maps, worked on at a time: enough to keep the cores busy, few enough to stay in
# their caches.
_PIXELS_AT_A_TIME = 2**19
_VALUES_AT_A_TIME = 2**22
# While fewer than m values are known, cells below the quantile at this many times the share are not kept.
_GUESS_MARGIN = 8.0

Labels = TypeVar("Labels")


class CellPass(ABC, Generic[Labels]):
    """Streams a layer's maps once; holds what the final thresholds may still need, and no more.

    The steps, in order: :meth:`update` for each batch; :meth:`settle` (collective); :meth:`tally` for each batch,
    or, if the byte budget was passed, :meth:`tally_maps` in a second forward pass. A subclass says what to count.

    Args:
        info: Shape of the maps.
        grid: Their place on the mask grid.
        quantile: Share of a unit's values above its threshold.
        quantile_on: Take it over the map's own values (``"low"``) or the ``"upsampled"`` ones.
        num_images: Images of the whole probe set.
        byte_budget: Bytes that may be spent on surviving cells.
        device: Where the maps are.
        ranks: The processes that share the images.

    Attributes:
        thresholds: ``(U,)`` float64 once settled; NaN for a unit with a NaN or an infinity.
        nonfinite: ``(U,)`` int64 once settled, how many of these.
        constant: ``(U,)`` bool once settled, units with one value throughout.
        overflowed: Whether a second forward pass is needed.
    """

    nonfinite: Tensor
    constant: Tensor

    def __init__(
        self,
        info: LayerInfo,
        grid: Grid,
        *,
        quantile: float,
        quantile_on: QuantileOn,
        num_images: int,
        byte_budget: int,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.info, self.grid = info, grid
        self.byte_budget, self.device = byte_budget, device
        self.upsampled = quantile_on == "upsampled"
        self.values_per_image = grid.rows.size * grid.columns.size if self.upsampled else info.height * info.width
        self.values = TopValues(
            info.units,
            num_images * self.values_per_image,
            quantile,
            torch.float64 if self.upsampled else torch.float32,
            device,
        )
        self._ranks = ranks
        self._health = Sums(ranks)
        self._health.add("low", torch.full((info.units,), math.inf, device=device), by="min")
        self._health.add("high", torch.full((info.units,), -math.inf, device=device), by="max")
        self._health.add("nonfinite", torch.zeros(info.units, dtype=torch.int64, device=device))
        self.thresholds = torch.empty(0)
        self.overflowed = False
        self._assumed = self.values.bound
        self._cells: list[Cells] = []
        self._bytes_after_prune = 0

    @abstractmethod
    def count(self, cells: Cells, labels: Labels) -> None:
        """Count the pixels above the thresholds: all cells of a batch that can hold one, by image."""

    def look(self, maps: Tensor, peaks: Tensor, indices: Tensor) -> None:
        """See maps ``(n, U, h, w)``, 0 where not finite, with their maxima ``(n, U)``, of the images ``(n,)``."""

    def update(self, maps: Tensor, indices: Tensor) -> None:
        """Take in the maps ``(n, U, h, w)`` of the images ``(n,)``.

        Raises:
            ValueError: If their shape is not the layer's.
        """
        expected = (self.info.units, self.info.height, self.info.width)
        if tuple(maps.shape[1:]) != expected:
            raise ValueError(f"layer '{self.info.name}' gave maps {tuple(maps.shape[1:])}, {expected} before")
        parts = [
            Cells(first + cells.image, *cells[1:])
            for first, few in _slices(maps)
            for cells in [self._take(few, indices[first : first + len(few)])]
        ]
        if not self.overflowed:
            self._keep(_joined(parts))

    def _take(self, maps: Tensor, indices: Tensor) -> Cells:
        """Take in a few maps; gives the cells that may still matter."""
        peaks, low = maps.amax((2, 3)), maps.amin((2, 3))
        self._note_health(maps, low, peaks)
        if not bool((peaks.isfinite() & low.isfinite()).all()):
            maps = maps.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self.look(maps, peaks, indices)
        if not self.upsampled:
            self.values.update(maps.transpose(0, 1).flatten(1))
            return hot_cells(maps, peaks, self._assume(), self.grid)
        return self._take_upsampled(hot_cells(maps, peaks, self.values.bound, self.grid))

    def _assume(self) -> Tensor:
        """Bound for the cells to keep: proven, or at first guessed and checked in :meth:`settle`.

        Until the m-th value has been seen nothing is proven, and to keep every cell of a large map would not do.
        """
        self._assumed = torch.maximum(self._assumed, self.values.guess(_GUESS_MARGIN))
        return self._assumed

    def _note_health(self, maps: Tensor, low: Tensor, peaks: Tensor) -> None:
        """Range of each unit's values, and how many are NaN or infinite."""
        health = self._health
        health["low"] = torch.minimum(health["low"], low.nan_to_num(nan=math.inf).amin(0))
        health["high"] = torch.maximum(health["high"], peaks.nan_to_num(nan=-math.inf).amax(0))
        broken = ~(low.isfinite() & peaks.isfinite()).all(0)
        if broken.any():
            health["nonfinite"][broken] += (~maps[:, broken].isfinite()).sum((0, 2, 3))
        # Units with a NaN or an infinity are not scored: nothing of theirs exceeds an infinite bound.
        self.values.bound[health["nonfinite"] > 0] = torch.inf

    def _take_upsampled(self, cells: Cells) -> Cells:
        """Feed the quantile with the upsampled values of the cells; return those that still matter after it."""
        for chunk in cell_chunks(cells, self.grid):
            values = upsample_cells(chunk, self.grid).values.flatten(1)
            hot = values > self.values.bound[chunk.unit][:, None]
            which, place = hot.nonzero(as_tuple=True)
            unit, order = chunk.unit[which].sort(stable=True)
            self.values.add(unit, values[which, place][order])
        return cells.where(_reaches(cells, self._assume()))

    def _keep(self, cells: Cells) -> None:
        self._cells.append(Cells(cells.image.int(), cells.unit.int(), cells.place.int(), cells.corners))
        if self._nbytes() > min(self.byte_budget, 2 * self._bytes_after_prune + 2**20):
            self._cells = [kept.where(_reaches(kept, self._assumed)) for kept in self._cells]
            self._bytes_after_prune = self._nbytes()
            if self._bytes_after_prune > self.byte_budget:
                self.overflowed, self._cells = True, []

    def _nbytes(self) -> int:
        return sum(kept.nbytes for kept in self._cells)

    def settle(self, num_images: int) -> None:
        """Find the exact thresholds over the images of all processes; a collective call.

        Args:
            num_images: Images that were probed, on all processes together.
        """
        health = self._health.reduced()
        self.nonfinite = health["nonfinite"]
        self.constant = (health["low"] == health["high"]) & (self.nonfinite == 0)
        count = num_images * self.values_per_image
        thresholds = self.values.threshold(count, self._ranks.sum, self._ranks.min)
        self.thresholds = thresholds.masked_fill((self.nonfinite > 0).to(self.device), torch.nan)
        if bool((self.thresholds < self._assumed).any()):
            self.overflowed, self._cells = True, []

    def tally(self, batch: int, labels: Labels) -> None:
        """Count the active pixels of one batch taken in before."""
        kept = self._cells[batch]
        cells = Cells(kept.image.long(), kept.unit.long(), kept.place.long(), kept.corners)
        self.count(cells.where(_reaches(cells, self.thresholds)), labels)

    def tally_maps(self, maps: Tensor, labels: Labels) -> None:
        """Count the active pixels of maps ``(n, U, h, w)`` seen again, now that the thresholds are known."""
        parts = [
            Cells(first + cells.image, *cells[1:])
            for first, few in _slices(maps.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
            for cells in [hot_cells(few, few.amax((2, 3)), self.thresholds, self.grid)]
        ]
        self.count(_joined(parts), labels)


def _slices(maps: Tensor) -> list[tuple[int, Tensor]]:
    """The maps a few images at a time, each slice with its first row: what is computed on them takes several copies."""
    size = max(1, _VALUES_AT_A_TIME // maps[0].numel())
    return [(i * size, few) for i, few in enumerate(torch.split(maps, size))]


def _joined(parts: list[Cells]) -> Cells:
    return Cells(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _reaches(cells: Cells, bound: Tensor) -> Tensor:
    """``(M,)`` bool, cells with a corner above the bound of their unit; never for a NaN bound."""
    return cells.corners.amax(1) > bound[cells.unit.long()]


def cell_chunks(cells: Cells, grid: Grid) -> list[Cells]:
    """The cells in pieces of at most so many pixels."""
    pixels = grid.rows.table[1].shape[1] * grid.columns.table[1].shape[1]
    size = max(1, _PIXELS_AT_A_TIME // pixels)
    parts = [torch.split(part, size) for part in cells]
    return [Cells(*chunk) for chunk in zip(*parts, strict=True)]
