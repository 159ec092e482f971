"""Landmarks of parts and categories of images: of one image, and as tables of many."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_interp.data.probe import ProbeSet
from lightning_interp.data.readers.face_parts import LANDMARKS
from lightning_interp.errors import DatasetError, check_names

Point = tuple[float, float]

FACE_LANDMARKS = tuple(column.removesuffix("_x") for column in LANDMARKS[::2])
"""Names of the five points of ``facts["landmarks"]``: CelebA's, left being left in the picture."""


def part_landmarks(probe: ProbeSet, index: int) -> dict[str, Point]:
    """Where the parts of image ``index`` are.

    They are ``facts["part_landmarks"]`` where a probe set has that, else the five points of a face in
    ``facts["landmarks"]`` by their :data:`FACE_LANDMARKS` names; nothing where it has neither.

    Args:
        probe: The probe set.
        index: Position of the image in it.

    Returns:
        By name of the part, x and y in pixels of the image, whole numbers being centres of pixels. A part that the
        image does not show, or more than once, is left out; NaN says the same.

    Raises:
        DatasetError: If ``facts["landmarks"]`` are not five points, or a landmark is infinite or not two numbers.

    Example:
        >>> from lightning_interp.data import RenderedFaces
        >>> sorted(part_landmarks(RenderedFaces(1, size=32), 0))
        ['lefteye', 'leftmouth', 'nose', 'righteye', 'rightmouth']
    """
    facts = probe.facts(index)
    if "part_landmarks" in facts:
        return _checked(probe, index, facts["part_landmarks"])
    if "landmarks" not in facts:
        return {}
    points = facts["landmarks"].tolist()
    if len(points) != len(FACE_LANDMARKS):
        raise DatasetError(
            f"image {index} of {type(probe).__name__}: {len(points)} landmarks without names; give them as "
            'facts["part_landmarks"], {name: (x, y)}'
        )
    return _checked(probe, index, {name: (x, y) for name, (x, y) in zip(FACE_LANDMARKS, points, strict=True)})


def _checked(probe: ProbeSet, index: int, points: Mapping[str, Point]) -> dict[str, Point]:
    for name, point in points.items():
        # One infinity would make the figures of the whole layer NaN.
        if len(point) != 2 or any(map(math.isinf, point)):
            raise DatasetError(
                f"image {index} of {type(probe).__name__}: landmark {name!r} is {point}, not x and y in pixels"
            )
    return dict(points)


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
        (:func:`~lightning_interp.data.landmarks.part_landmarks`); NaN where absent.

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
