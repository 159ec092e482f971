"""The landmarks of the parts of an image, in one form for every probe set that has some."""

import math
from collections.abc import Mapping

from lightning_interp.data.face_parts import LANDMARKS
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError

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
