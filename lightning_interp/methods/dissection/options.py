"""How to dissect: the definitions in which published Network Dissection codes differ."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from lightning_interp.functional.quantile import QuantileOn

Upsample = Literal["cell", "receptive_field", "zero_pad"]
Images = Literal["category", "all"]


@dataclass(frozen=True)
class DissectionOptions:
    """Definitions of a dissection.

    Args:
        quantile: Share of a unit's values above its threshold T_k, in (0, 1).
        quantile_on: Take it over the map's own values (``"low"``) or the values upsampled to the mask
            (``"upsampled"``).
        upsample: Where the map's values lie on the mask: ``"cell"`` centres with the border held,
            ``"receptive_field"`` centres (measured on the network) with the border held, or cell centres fading
            to zero outside (``"zero_pad"``).
        images: Which images enter a unit's area A: those that carry a concept of the same ``"category"``, or
            ``"all"``.
        iou_threshold: A unit detects a concept if its IoU is above this.
        mask_size: ``(h, w)`` to count at; None for the probe set's own.

    Raises:
        ValueError: If a value is out of range, naming it.
    """

    quantile: float = 0.005
    quantile_on: QuantileOn = "low"
    upsample: Upsample = "cell"
    images: Images = "category"
    iou_threshold: float = 0.04
    mask_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must be in (0, 1), got {self.quantile}")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"iou_threshold must be in [0, 1), got {self.iou_threshold}")
        for name, value, known in (
            ("quantile_on", self.quantile_on, ("low", "upsampled")),
            ("upsample", self.upsample, ("cell", "receptive_field", "zero_pad")),
            ("images", self.images, ("category", "all")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        if self.mask_size is not None:
            size = tuple(self.mask_size) if isinstance(self.mask_size, Sequence) else ()
            if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
                raise ValueError(f"mask_size must be two whole numbers of at least 1, got {self.mask_size!r}")
            object.__setattr__(self, "mask_size", size)

    def as_dict(self) -> dict[str, Any]:
        """The options, JSON-able."""
        return asdict(self)


PRESETS: Mapping[str, DissectionOptions] = MappingProxyType(
    {
        "cvpr2017": DissectionOptions(),
        "pnas2020": DissectionOptions(quantile=0.01, quantile_on="upsampled", upsample="zero_pad", images="all"),
    }
)


def make_options(preset: str, **overrides: Any) -> DissectionOptions:
    """A preset with some of its options replaced; an override of None keeps the preset's.

    ``"cvpr2017"`` is Bau et al. 2017 with cell anchors, as every PyTorch code has them; the paper's own are
    ``upsample="receptive_field"``, which must be measured first and which some networks lack. ``"pnas2020"`` is Bau et
    al. 2020, who counted at a quarter of the input's size (give ``mask_size=(56, 56)`` for 224 px).

    Raises:
        ValueError: If the preset is unknown or an option out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; the presets are {', '.join(PRESETS)}")
    return replace(PRESETS[preset], **{name: v for name, v in overrides.items() if v is not None})
