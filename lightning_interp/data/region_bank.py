"""Region masks of a probe set, found once and kept as bits for the epochs to come."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.data.part_regions import CheckedRegions, FindRegions, default_regions, equal_area
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError

CONTROL = "control"
"""Name of the unrelated region of equal area that calibrates occlusion."""
SKIN = "skin"
"""Region whose colour fills others, where a probe set knows it."""


class RegionBank:
    """Region masks of some images.

    Args:
        probe: The probe set.
        indices: The images.
        region: The region that should matter; the control is as large as this.
        contexts: The other regions.
        find: The user's function for regions; None to find them by part masks or landmarks.

    Attributes:
        names: The regions, the control included, and "skin" where that is known.

    Raises:
        DatasetError: If a region is unknown, has no pixel in any image, two of them are one, or one has the control's
            name.
    """

    def __init__(
        self,
        probe: ProbeSet,
        indices: Sequence[int],
        region: str,
        contexts: Sequence[str],
        find: FindRegions | None = None,
    ) -> None:
        wanted = list(dict.fromkeys((region, *contexts)))
        if region in contexts:
            raise DatasetError(f"the region '{region}' is also a context's; effects on it cannot be told apart")
        if CONTROL in wanted:
            raise DatasetError(f"'{CONTROL}' is the name of the unrelated region of equal area; rename yours")
        self.region, self.wanted = region, wanted
        self._find = default_regions(probe, wanted) if find is None else CheckedRegions(find, wanted)
        if find is None and SKIN not in wanted and SKIN in default_regions(probe).names:
            self._find = default_regions(probe, [*wanted, SKIN])
        self.names = tuple(dict.fromkeys((*self._find_names(), CONTROL)))
        self._bits: dict[int, NDArray[np.uint8]] = {}
        self._size = (0, 0)
        seen = np.zeros(len(self.names), dtype=bool)
        for index in indices:
            masks = self._masks(probe, index)
            seen |= masks.flatten(1).any(1).numpy()
            self._bits[index] = np.packbits(masks.numpy())
        for name, known in zip(self.names, seen, strict=True):
            if name in wanted and not known:
                raise DatasetError(f"region '{name}' has no pixel in any of the {len(indices)} images of the probe set")

    def _find_names(self) -> tuple[str, ...]:
        return tuple(name for name in self._find.names if name in self.wanted or name == SKIN)

    def _masks(self, probe: ProbeSet, index: int) -> Tensor:
        item = probe[index]
        found = self._find(item)
        size = (item.image.shape[-2], item.image.shape[-1])
        if self._size == (0, 0):
            self._size = size
        if size != self._size:
            raise DatasetError(f"image {index} is {size}, others are {self._size}: one probe set has one size")
        own = found[self.region]
        others = torch.stack([found[name] for name in self.wanted]).any(0)
        control = equal_area(own, others, index)
        kept = {**found, CONTROL: torch.zeros_like(own) if control is None else control}
        return torch.stack([kept[name] for name in self.names])

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """By region, ``(B, H, W)`` bool, of images given at construction."""
        height, width = self._size
        count = len(self.names) * height * width
        bits = np.stack([np.unpackbits(self._bits[index], count=count) for index in indices])
        masks = torch.from_numpy(bits).bool().view(len(indices), len(self.names), height, width)
        return dict(zip(self.names, masks.unbind(1), strict=True))
