"""Region masks of a probe set, found once and kept as bits for the epochs to come."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.data.loading import BAD_IMAGE_ERRORS, BadImage, readable
from lightning_interp.data.probe import ProbeItem, ProbeSet
from lightning_interp.data.regions import CheckedRegions, FindRegions, PartRegions, default_regions, equal_area
from lightning_interp.errors import DatasetError

CONTROL = "control"
"""Name of the unrelated region of equal area that calibrates occlusion."""
SKIN = "skin"
"""Region whose colour fills others, where a probe set knows it."""


class RegionBank:
    """Region masks of some images.

    Pixels that a context shares with the region are the region's alone, for hiding them would hide the cause: with
    ``region="mouth"`` the context "face" is the face without its mouth.

    Args:
        probe: The probe set.
        indices: The images.
        region: The region that should matter; the control is as large as this.
        contexts: The other regions.
        find: The user's function for regions; None to find them by part masks or landmarks.
        on_bad_image: ``"raise"``, or ``"skip"`` images that cannot be read.

    Attributes:
        names: The regions, the control included, and "skin" where that is known.
        indices: The images, without those that were skipped.
        skipped: Images left out, ``(index, reason)``.
        shown: By region, ``(n,)`` bool, which of the images show it.

    Raises:
        DatasetError: If no image can be read, a region is unknown, has no pixel in any image (a context's: outside of
            the region), two of them are one, or one has the control's name.
    """

    def __init__(
        self,
        probe: ProbeSet,
        indices: Sequence[int],
        region: str,
        contexts: Sequence[str],
        find: FindRegions | None = None,
        on_bad_image: BadImage = "raise",
    ) -> None:
        wanted = list(dict.fromkeys((region, *contexts)))
        if region in contexts:
            raise DatasetError(f"the region '{region}' is also a context's; effects on it cannot be told apart")
        if CONTROL in wanted:
            raise DatasetError(f"'{CONTROL}' is the name of the unrelated region of equal area; rename yours")
        self.region, self.wanted = region, wanted
        self._find = default_regions(probe, wanted) if find is None else CheckedRegions(find, wanted)
        if isinstance(self._find, PartRegions) and SKIN in PartRegions(probe).names:
            self._find = PartRegions(probe, [*wanted, SKIN])
        self.names = tuple(dict.fromkeys((*self._find_names(), CONTROL)))
        self._bits: dict[int, NDArray[np.uint8]] = {}
        self._size = (0, 0)
        self.skipped: list[tuple[int, str]] = []
        shown = []
        for index in indices:
            try:
                item = probe[index]
            except BAD_IMAGE_ERRORS as error:
                if on_bad_image == "raise":
                    raise
                self.skipped.append((index, f"{type(error).__name__}: {error}"))
                continue
            masks = self._masks(item)
            shown.append(masks.flatten(1).any(1))
            self._bits[index] = np.packbits(masks.numpy())
        self.indices = readable(indices, dict(self.skipped))
        self.shown = dict(zip(self.names, torch.stack(shown, 1), strict=True))
        for name in wanted:
            if not self.shown[name].any():
                rest = "" if name == region else f", outside of region '{region}'"
                raise DatasetError(
                    f"region '{name}' has no pixel in any of the {len(self.indices)} images of the probe set{rest}"
                )

    def _find_names(self) -> tuple[str, ...]:
        return tuple(name for name in self._find.names if name in self.wanted or name == SKIN)

    def _masks(self, item: ProbeItem) -> Tensor:
        found = dict(self._find(item))
        size = (item.image.shape[-2], item.image.shape[-1])
        if self._size == (0, 0):
            self._size = size
        if size != self._size:
            raise DatasetError(f"image {item.index} is {size}, others are {self._size}: one probe set has one size")
        own = found[self.region]
        found |= {name: found[name] & ~own for name in self.wanted if name != self.region}
        others = torch.stack([found[name] for name in self.wanted]).any(0)
        control = equal_area(own, others, item.index)
        kept = {**found, CONTROL: torch.zeros_like(own) if control is None else control}
        return torch.stack([kept[name] for name in self.names])

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """By region, ``(B, H, W)`` bool, of images given at construction."""
        height, width = self._size
        count = len(self.names) * height * width
        bits = np.stack([np.unpackbits(self._bits[index], count=count) for index in indices])
        masks = torch.from_numpy(bits).bool().view(len(indices), len(self.names), height, width)
        return dict(zip(self.names, masks.unbind(1), strict=True))
