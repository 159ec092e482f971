"""Counts, thresholds and top images of a layer's units: what dissection counts and other methods build on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.pixels import active_pixels, add_areas, add_concepts
from lightning_interp.functional.quantile import QuantileOn, from_sortable_bits, sortable_bits
from lightning_interp.functional.regions import RegionBatch
from lightning_interp.functional.upsampling import Cells, Grid
from lightning_interp.probing.cells import CellPass, cell_chunks
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sums import Sums

_EMPTY = torch.iinfo(torch.int64).min


class Winners(NamedTuple):
    """The k images that excite each unit most; empty slots have index -1 and score ``-inf``.

    Attributes:
        image: ``(U, k)`` int64, positions in the probe set.
        score: ``(U, k)`` float32, the map's maximum.
        peak: ``(U, k, 2)`` int64, row and column of that maximum (first of equals).
        maps: ``(U, k, h, w)`` float32, the maps.
    """

    image: Tensor
    score: Tensor
    peak: Tensor
    maps: Tensor


class TopImages:
    """Running top k images of each unit by the maximum of its map, with the place of that maximum and the map.

    Equal maxima are ranked by lower data-set index, so the result does not depend on batches or processes.

    Args:
        sums: Where they are handed in for the other processes.
        info: Shape of the maps.
        k: Images to keep a unit.
        device: Where the maps are.
    """

    def __init__(self, sums: Sums, info: LayerInfo, k: int, device: torch.device) -> None:
        self._sums, self._info, self._k = sums, info, k
        self._name = f"{info.name}: top"
        # Score and index in one number, place of the maximum, map: (U, k, ...).
        self._key = torch.full((info.units, k), _EMPTY, device=device)
        self._peak = torch.zeros(info.units, k, dtype=torch.int64, device=device)
        self._maps = torch.zeros(info.units, k, info.height * info.width, device=device)
        for part, values in self._parts().items():
            sums.add(part, values[:0], by="rows")

    def _parts(self) -> dict[str, Tensor]:
        """``(k, U, ...)``, by the name of the sum."""
        parts = {"key": self._key, "peak": self._peak, "maps": self._maps}
        return {f"{self._name} {part}": values.transpose(0, 1) for part, values in parts.items()}

    def update(self, maps: Tensor, peaks: Tensor, indices: Tensor) -> None:
        """Take in maps ``(B, U, h, w)`` with their maxima ``(B, U)`` and data-set indices ``(B,)``."""
        # Score first, then the lower index: 32 bits of each, so indices must stay below 2^32.
        key = (sortable_bits(peaks.float()) << 32) | (2**32 - 1 - indices[:, None])
        key = torch.where(peaks.isfinite(), key, _EMPTY)
        count = min(self._k, len(maps))
        best, row = key.topk(count, dim=0)
        new = best > self._key[:, -1]
        if not new.any():
            return
        slot, unit = new.nonzero(as_tuple=True)
        chosen = maps[row[slot, unit], unit].flatten(1)
        peak = torch.zeros(count, len(self._key), dtype=torch.int64, device=maps.device)
        peak[slot, unit] = _first_peak(chosen)
        candidates = torch.zeros(count, len(self._key), chosen.shape[1], device=maps.device)
        candidates[slot, unit] = chosen
        best = torch.where(new, best, _EMPTY)
        own = (self._key, self._peak, self._maps)
        more = (best.T, peak.T, candidates.transpose(0, 1))
        self._key, self._peak, self._maps = _best(
            self._k, *(torch.cat(parts, 1) for parts in zip(own, more, strict=True))
        )

    def hand_in(self) -> None:
        """Give what this process has to the sums, once, before they are reduced."""
        for name, values in self._parts().items():
            self._sums.append(name, values)

    def winners(self, totals: Mapping[str, Tensor]) -> Winners:
        """The winners over all processes, from the reduced sums."""
        key, peak, maps = _best(self._k, *(totals[name].transpose(0, 1) for name in self._parts()))
        empty = key == _EMPTY
        index = torch.where(empty, -1, 2**32 - 1 - (key & (2**32 - 1)))
        score = from_sortable_bits(key >> 32, torch.float32).masked_fill(empty, -torch.inf)
        place = torch.stack([peak // self._info.width, peak % self._info.width], 2)
        return Winners(index, score, place, maps.reshape(*maps.shape[:2], -1, self._info.width))


def _best(k: int, key: Tensor, peak: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest keys of each unit with what goes with them."""
    key, order = key.topk(k, dim=1)
    unit = torch.arange(len(order), device=order.device)[:, None]
    return key, peak.gather(1, order), maps[unit, order]


def _first_peak(maps: Tensor) -> Tensor:
    """``(M,)`` position of the first maximum of each ``(M, L)`` row."""
    length = maps.shape[1]
    order = torch.arange(length, 0, -1, device=maps.device)
    return (order * (maps == maps.amax(1, keepdim=True))).argmax(1)


@dataclass(frozen=True)
class LabelledBatch:
    """Labels of the images of one batch, their own and those of the images they are re-paired with."""

    own: tuple[RegionBatch, Tensor]
    partner: tuple[RegionBatch, Tensor] | None


class LayerTallies(CellPass[LabelledBatch]):
    """Counts a layer's active pixels against concepts and keeps each unit's top images.

    The counts I ``(U, C)`` and A ``(U, G)``, int64, are the sums ``"<layer>: intersection"`` and ``"<layer>: area"``;
    those by chance are ``"<layer>: chance intersection"`` and ``"<layer>: chance area"``.

    Args:
        sums: Where the counts go.
        info: Shape of the maps.
        grid: Their place on the mask grid.
        quantile: Share of a unit's values above its threshold.
        quantile_on: Take it over the map's own values (``"low"``) or the ``"upsampled"`` ones.
        num_images: Images of the whole probe set.
        num_concepts: C.
        num_categories: G.
        top_k: Images to keep a unit.
        byte_budget: Bytes that may be spent on surviving cells.
        device: Where the maps are.
        ranks: The processes that share the images.
    """

    def __init__(
        self,
        sums: Sums,
        info: LayerInfo,
        grid: Grid,
        *,
        quantile: float,
        quantile_on: QuantileOn,
        num_images: int,
        num_concepts: int,
        num_categories: int,
        top_k: int,
        byte_budget: int,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        super().__init__(
            info,
            grid,
            quantile=quantile,
            quantile_on=quantile_on,
            num_images=num_images,
            byte_budget=byte_budget,
            device=device,
            ranks=ranks,
        )
        self.sums = sums
        self.top = TopImages(sums, info, top_k, device)
        for kind in ("", "chance "):
            for what, columns in (("intersection", num_concepts), ("area", num_categories)):
                start = torch.zeros(info.units, columns, dtype=torch.int64, device=device)
                sums.add(f"{info.name}: {kind}{what}", start)

    def look(self, maps: Tensor, peaks: Tensor, indices: Tensor) -> None:
        """Keep the top images."""
        self.top.update(maps, peaks, indices)

    def count(self, cells: Cells, labels: LabelledBatch) -> None:
        """Count the active pixels of a batch, against its labels and those it is re-paired with."""
        for chunk in cell_chunks(cells, self.grid):
            pixels = active_pixels(chunk, self.thresholds, self.grid)
            for kind, known in (("", labels.own), ("chance ", labels.partner)):
                if known is not None:
                    regions, members = known
                    add_concepts(self.sums[f"{self.info.name}: {kind}intersection"], *pixels, regions)
                    add_areas(self.sums[f"{self.info.name}: {kind}area"], *pixels[:2], members)
