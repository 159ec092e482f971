"""Landmarks and categories of all images of a probe set, as tables."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_interp.data.part_landmarks import part_landmarks
from lightning_interp.data.part_regions import check_names
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError

_CATEGORY = "category"


def landmark_table(
    probe: ProbeSet, indices: Sequence[int], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Tensor]:
    """Where the parts of some images are.

    Args:
        probe: The probe set.
        indices: N images.
        names: The landmarks that are wanted; None for all that an image has, in the order in which they come.

    Returns:
        The names of the K landmarks, and ``(N, K, 2)`` float64, x and y in pixels of the image
        (:func:`~lightning_interp.data.part_landmarks.part_landmarks`); NaN where absent.

    Raises:
        DatasetError: If no image has a landmark, or one that is wanted, or a landmark is no point.
    """
    found = [part_landmarks(probe, index) for index in indices]
    known = list(dict.fromkeys(name for points in found for name in points))
    if not known:
        raise DatasetError(
            f"no image of {type(probe).__name__} has a landmark of a part; RenderedFaces, CelebA, FacesWithParts, "
            'AnimalPart, CUB200Parts and VOCParts have some, your own probe set has them in facts["part_landmarks"], '
            "{name: (x, y)}"
        )
    check_names(names or (), known, "landmark")
    columns = tuple(dict.fromkeys(names or known))
    absent = (math.nan, math.nan)
    rows = [[points.get(name, absent) for name in columns] for points in found]
    return columns, torch.tensor(rows, dtype=torch.float64)


def category_table(probe: ProbeSet, indices: Sequence[int], name: str | None = None) -> Tensor:
    """Category of some images.

    Args:
        probe: The probe set.
        indices: N images.
        name: Attribute that is the category; None for ``"category"`` where the probe set has that, else all images
            are of one.

    Returns:
        ``(N,)`` int64 from 0.

    Raises:
        DatasetError: If an image lacks the attribute, or its value is not a whole number of at least 0.
    """
    attributes = [probe.facts(index).get("attributes", {}) for index in indices]
    if name is None and not any(_CATEGORY in known for known in attributes):
        return torch.zeros(len(attributes), dtype=torch.int64)
    wanted = name or _CATEGORY
    categories = []
    for index, known in zip(indices, attributes, strict=True):
        category = _whole(known.get(wanted))
        if category is None:
            raise DatasetError(
                f"image {index} of {type(probe).__name__}: attribute {wanted!r} is {known.get(wanted)!r}, not a "
                "category (a whole number of at least 0)"
            )
        categories.append(category)
    return torch.tensor(categories, dtype=torch.int64)


def _whole(value: Any) -> int | None:
    """``value`` as a whole number of at least 0, None if it is none: text, NaN, infinity, nothing at all."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value and number >= 0 else None
