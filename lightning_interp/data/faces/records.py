"""The parameters that a rendered face is made from, and how they are drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.data.faces.concepts import INDOOR, OUTDOOR, TEXTURES
from lightning_interp.data.faces.correlated import Correlations, checked_pairs, draw_attributes, joint_table
from lightning_interp.errors import DatasetError, check_names

TARGET = "lipstick"
ATTRIBUTES = (TARGET, "makeup", "blond", "smile", "glasses", "hat", "outdoors")
"""Binary attributes; each is 1 for half of the faces."""
STRENGTHS = (TARGET, "makeup")
"""Those whose colour is mixed in more or less strongly."""

# Uniform ranges. Lengths are in half head heights (the face's outline reaches from -1 to 1) unless said otherwise.
_RANGES: Mapping[str, tuple[float, float]] = {
    # Pose: sine of the in-plane rotation; sideways shift of the inner face; the rest in image heights.
    "roll": (-0.22, 0.22),
    "yaw": (-0.14, 0.14),
    "centre_x": (0.44, 0.56),
    "centre_y": (0.43, 0.48),
    "scale": (0.235, 0.295),
    # Shape of the face and its parts.
    "face_width": (0.73, 0.85),
    "jaw": (0.02, 0.2),
    "eye_gap": (0.36, 0.4),
    "eye_y": (-0.1, -0.02),
    "eye_width": (0.17, 0.2),
    "eye_open": (0.5, 0.7),
    "gaze": (-0.04, 0.04),
    "brow_gap": (0.26, 0.32),
    "brow_tilt": (-0.06, 0.04),
    "brow_thickness": (0.04, 0.06),
    "nose_width": (0.1, 0.15),
    "nose_y": (0.25, 0.32),
    "mouth_y": (0.54, 0.6),
    "mouth_width": (0.24, 0.31),
    "lip_height": (0.095, 0.13),
    "mouth_curve": (-0.15, 0.3),
    "smile_width": (1.15, 1.35),
    "smile_curve": (0.9, 1.5),
    "hair_volume": (0.12, 0.24),
    "hair_bottom": (-0.1, 1.7),
    "parting": (-0.3, 0.3),
    # Colours: position on a scale, or how much of the attribute's colour is mixed in when the attribute is on.
    "skin_tone": (0.0, 1.0),
    "lip_red": (0.15, 0.45),
    "lipstick_hue": (0.0, 1.0),
    "lipstick_strength": (0.2, 0.6),
    "makeup_hue": (0.0, 1.0),
    "makeup_strength": (0.5, 0.9),
    "blond_shade": (0.0, 1.0),
    "wall_shade": (0.35, 0.75),
    "shirt_period": (0.34, 0.52),
    "wall_period": (0.11, 0.17),
    "scenery": (0.0, 1.0),
    # Light: overall, falling off to the right and downwards, warm against cold; pixel noise. All are factors of 1.
    "gain": (0.82, 1.1),
    "light_x": (-0.2, 0.2),
    "light_y": (-0.12, 0.12),
    "warmth": (-0.05, 0.05),
    "noise": (0.008, 0.03),
}
# Uniform choices: how many there are. A texture of 0 is plain.
_CHOICES: Mapping[str, int] = {
    "hair_colour": 5,
    "iris_colour": 5,
    "shirt_colour": 11,
    "shirt_contrast": 10,
    "shirt_texture": len(TEXTURES) + 1,
    "hat_colour": 11,
    "hat_contrast": 10,
    "hat_texture": len(TEXTURES) + 1,
    "hat_brim": 2,
    "wall_colour": 11,
    "wall_contrast": 10,
    "wall_texture": len(TEXTURES) + 1,
    "glasses_metal": 2,
    "glasses_round": 2,
    "glasses_colour": 4,
    "indoor_scene": len(INDOOR),
    "outdoor_scene": len(OUTDOOR),
}


@dataclass(frozen=True)
class FaceRecords:
    """Parameters of B faces; everything about the pictures follows from them.

    Args:
        values: By name, ``(B,)``: attributes (int64, 0 or 1), ``"noise_seed"`` and choices (int64), lengths, tones
            and strengths (float32). Those of an attribute that is off are there all the same.
    """

    values: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.values["noise_seed"])

    def __getitem__(self, index: int | slice | Tensor) -> "FaceRecords":
        """The faces of a slice, mask or index tensor; an int gives a batch of one."""
        at = torch.tensor([index]) if isinstance(index, int) else index
        return FaceRecords({name: value[at] for name, value in self.values.items()})

    @property
    def attributes(self) -> Tensor:
        """``(B, A)`` int64, columns in the order of :data:`ATTRIBUTES`."""
        return torch.stack([self.values[name] for name in ATTRIBUTES], dim=1)

    def do(self, changes: Mapping[str, int]) -> "FaceRecords":
        """The same faces with attributes set: the intervention of causal inference.

        Args:
            changes: Attribute name to 0 or 1.

        Raises:
            DatasetError: If an attribute is unknown or its value is neither 0 nor 1.
        """
        values = dict(self.values)
        for name, value in changes.items():
            check_attribute(name)
            if value not in (0, 1):
                raise DatasetError(f"attribute {name!r} can be set to 0 or 1, not {value!r}")
            values[name] = torch.full_like(values[name], int(value))
        return FaceRecords(values)


def check_attribute(name: str) -> None:
    """Raise a ``DatasetError`` that names the likely spelling, unless ``name`` is one of :data:`ATTRIBUTES`."""
    check_names([name], ATTRIBUTES, "attribute")


def draw_faces(
    num: int,
    seed: int,
    correlations: Correlations,
    strengths: Mapping[str, tuple[float, float]] | None = None,
) -> FaceRecords:
    """Draw the parameters of ``num`` faces; those of face i depend on i and the other arguments only.

    Args:
        num: Number of faces.
        seed: At least 0.
        correlations: rho by attribute (its correlation with lipstick) or by pair of attributes; what follows for
            the others says :func:`~lightning_interp.data.faces.correlated.joint_table`. Only attributes that a chain of
            pairs connects to another change.
        strengths: By ``"lipstick"`` or ``"makeup"``, the range of the share, in [0, 1], of its colour that is mixed
            in where it is on, replacing (0.2, 0.6) and (0.5, 0.9). Nothing else of the faces changes.

    Raises:
        DatasetError: If an attribute is unknown, correlations are refused, or a range is none within [0, 1].
    """
    ranges = {**_RANGES, **_strength_ranges(strengths or {})}
    names = (*ATTRIBUTES, *ranges, *_CHOICES, "noise_seed")
    # Filled row by row, so that fewer faces are the first ones of more.
    dice = dict(zip(names, np.random.default_rng(seed).random((num, len(names))).T, strict=True))
    table = joint_table(ATTRIBUTES, checked_pairs(ATTRIBUTES, correlations))
    drawn = draw_attributes(table, [dice[name] for name in ATTRIBUTES])
    columns: dict[str, NDArray[Any]] = dict(zip(ATTRIBUTES, drawn, strict=True))
    for name, (low, high) in ranges.items():
        columns[name] = (low + (high - low) * dice[name]).astype(np.float32)
    for name, count in {**_CHOICES, "noise_seed": 2**53}.items():
        columns[name] = (dice[name] * count).astype(np.int64)
    return FaceRecords({name: torch.from_numpy(column) for name, column in columns.items()})


def _strength_ranges(strengths: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    for name, (low, high) in strengths.items():
        if name not in STRENGTHS or not 0 <= low <= high <= 1:
            message = f"give (low, high) in [0, 1] of {' or '.join(STRENGTHS)}"
            raise DatasetError(f"strengths[{name!r}] = {(low, high)}: {message}")
    return {f"{name}_strength": (float(low), float(high)) for name, (low, high) in strengths.items()}
