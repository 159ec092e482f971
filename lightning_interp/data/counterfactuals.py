"""Counterfactual images of a probe set, made once and kept for the epochs to come."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_interp.data.loading import scaled
from lightning_interp.data.probe import ProbeSet

_BYTE_BUDGET = 2**28


class Remade:
    """The images of a probe set with attributes set, from its ``counterfactuals(indices, do)``.

    Kept as they come, up to 256 MiB; past that they are made anew each time.

    Args:
        probe: The probe set.
    """

    def __init__(self, probe: ProbeSet) -> None:
        self.probe = probe
        self._kept: dict[tuple[Any, ...], Tensor] = {}
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # They follow from the probe set; what is sent to another process or stored should not hold them.
        return {"probe": self.probe, "_kept": {}, "_bytes": 0}

    def __call__(self, indices: Sequence[int], do: Mapping[str, int]) -> Tensor:
        """``(B, C, H, W)`` float in [0, 1]."""
        key = (*sorted(do.items()), *indices)
        images = self._kept.get(key)
        if images is None:
            images = self.probe.counterfactuals(indices, do)  # type: ignore[attr-defined]
            if self._bytes + images.nbytes <= _BYTE_BUDGET:
                self._kept[key] = images
                self._bytes += images.nbytes
        return scaled(images)
