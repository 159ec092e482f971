"""What changed between two probes: units that became detectors, ceased to be, or detect something else."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Changes(NamedTuple):
    """Numbers of units, by what became of them between two probes.

    Attributes:
        born: No detector before, one now.
        died: A detector before, none now.
        changed: A detector of another concept than before.
    """

    born: int
    died: int
    changed: int


def concept_changes(previous: Sequence[Hashable | None], current: Sequence[Hashable | None]) -> Changes:
    """Compare the concepts that a layer's units detect at two probes.

    Args:
        previous: By unit, the concept it detected; None for a unit that was no detector.
        current: The same units now.

    Raises:
        ValueError: If the two speak of different numbers of units.

    Example:
        >>> concept_changes(["eye", None, "nose", "hat"], [None, "eye", "mouth", "hat"])
        Changes(born=1, died=1, changed=1)
    """
    pairs = list(zip(previous, current, strict=True))
    return Changes(
        born=sum(old is None and new is not None for old, new in pairs),
        died=sum(old is not None and new is None for old, new in pairs),
        changed=sum(old is not None and new is not None and old != new for old, new in pairs),
    )
