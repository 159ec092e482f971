"""Where named regions (mouth, eyes, hair, background...) lie on a probe image: from part masks or landmarks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_interp.data.faces.make_up import eyelids
from lightning_interp.data.probe import ProbeItem, ProbeSet
from lightning_interp.errors import DatasetError, check_names
from lightning_interp.functional.fills import dilate
from lightning_interp.functional.regions import (
    BadPlaneError,
    Regions,
    UnknownLabelError,
    concept_lookup,
    encode_regions,
)

PART_GROUPS: Mapping[str, tuple[str, ...]] = {
    "mouth": ("mouth", "lip", "teeth", "u_lip", "l_lip"),
    "eyes": ("eye", "iris", "eyelid", "l_eye", "r_eye"),
    "brows": ("eyebrow", "brow", "l_brow", "r_brow"),
    "nose": ("nose",),
    "ears": ("ear", "l_ear", "r_ear"),
    "glasses": ("glasses", "eye_g"),
    "hair": ("hair",),
    "hat": ("hat",),
    "clothes": ("shirt", "cloth"),
}
"""By region, the names of its concepts in the rendered faces, CelebAMask-HQ and Broden, left and right together."""

# Categories whose labels say what a thing is; colours, textures and the like lie on things.
_THINGS = ("object", "part")
_FIX = (
    "give regions=, a function from a ProbeItem to {name: (H, W) bool}; or a probe set with pixel labels of parts "
    "(mouth, eye, hair...) or with five landmarks a face in its facts"
)

FindRegions = Callable[[ProbeItem], Mapping[str, Tensor]]


class RegionFinder(Protocol):
    """Where named regions lie on a probe image."""

    @property
    def names(self) -> tuple[str, ...]:
        """The regions that it gives, in a fixed order."""

    def __call__(self, item: ProbeItem) -> Mapping[str, Tensor]:
        """By name, ``(H, W)`` bool of the image's size; all False where the image does not show the region."""


@dataclass(frozen=True)
class _Rule:
    """Which pixels of the label planes make up a region.

    Args:
        numbers: Those that carry one of these concept numbers...
        without: ...and none of these; if there are any, the region does not grow but they do.
        complement: All the others instead.
        lids: If these are eyes without their lids: the numbers of skin, of which lids are to be added.
    """

    numbers: tuple[int, ...]
    without: tuple[int, ...] = ()
    complement: bool = False
    lids: tuple[int, ...] = ()


class PartRegions:
    """Regions from a probe set's label planes, by concept names.

    The default regions are the :data:`PART_GROUPS` of which the probe set has a concept, and two more:

    - ``"skin"``: where "skin" is labelled, without the parts of the face, hair, glasses, hat and clothes;
    - ``"background"``: everything but "person", or but all objects and parts where there is no such concept.

    ``"eyes"`` has the lids, where eye-shadow is; in a vocabulary without them, such as CelebAMask-HQ's, the skin that
    :func:`~lightning_interp.data.faces.make_up.eyelids` takes for them.

    Args:
        probe: The probe set.
        groups: By region, the names of the concepts whose pixels make it up; a name that is in several categories
            counts in each. Or names of regions: defaults, or concepts that are regions of their own. None for all
            defaults.
        dilate: By how many pixels of the image regions grow, to take in the soft edges of what they hold: all but
            "skin" and "background", which lose what the others gain.

    Attributes:
        names: The regions.

    Raises:
        DatasetError: If a region or concept is unknown, with the likely one.

    Example:
        >>> from lightning_interp.data import RenderedFaces
        >>> probe = RenderedFaces(1, size=32)
        >>> {name: mask.shape for name, mask in PartRegions(probe, ["mouth", "iris"])(probe[0]).items()}
        {'mouth': torch.Size([32, 32]), 'iris': torch.Size([32, 32])}
    """

    def __init__(
        self, probe: ProbeSet, groups: Mapping[str, Sequence[str]] | Sequence[str] | None = None, dilate: int = 1
    ) -> None:
        numbers: dict[str, tuple[int, ...]] = {}
        for concept in probe.concepts:
            numbers[concept.name] = (*numbers.get(concept.name, ()), concept.number)
        rules = _default_rules(probe, numbers)
        if isinstance(groups, Mapping):
            check_names([name for names in groups.values() for name in names], numbers, "concept")
            rules = {group: _Rule(_of(numbers, names)) for group, names in groups.items()}
        elif groups is not None:
            known = {name: _Rule(own) for name, own in numbers.items()} | rules
            check_names(groups, [*rules, *numbers], "region")
            rules = {name: known[name] for name in groups}
        self._rules = rules
        self._dilate = dilate
        self._kind, self._mask_size = type(probe).__name__, probe.mask_size
        self._lookup = concept_lookup([concept.number for concept in probe.concepts])
        self.names = tuple(rules)

    def __call__(self, item: ProbeItem) -> dict[str, Tensor]:
        """By region, ``(H, W)`` bool; label planes of another size than the image are scaled by nearest neighbour.

        Raises:
            DatasetError: If a plane has another size than the probe set's ``mask_size`` or is not of integers, or a
                number belongs to no concept.
        """
        try:
            labels = encode_regions(item.labels.planes, {}, self._lookup, self._mask_size)
        except (UnknownLabelError, BadPlaneError) as error:
            raise DatasetError(f"image {item.index} of {self._kind}: {error}") from error
        return {name: self._mask(rule, labels, item.image.shape[-2:]) for name, rule in self._rules.items()}

    def _mask(self, rule: _Rule, labels: Regions, size: torch.Size) -> Tensor:
        own = self._carrying(rule.numbers, labels, size)
        if rule.without:
            return own & ~self._grown(self._carrying(rule.without, labels, size))
        if rule.lids:
            own = own | eyelids(own[None], self._carrying(rule.lids, labels, size)[None])[0]
        own = self._grown(own)
        return ~own if rule.complement else own

    def _carrying(self, numbers: tuple[int, ...], labels: Regions, size: torch.Size) -> Tensor:
        """``(H, W)`` bool, the pixels that carry one of the concept numbers."""
        carries = np.zeros(labels.size, dtype=bool)
        carries[labels.region[np.isin(labels.concept, self._lookup[list(numbers)])]] = True
        own = torch.from_numpy(carries[labels.map]).view(*self._mask_size)
        if own.shape != size:
            own = interpolate(own[None, None].float(), tuple(size), mode="nearest-exact")[0, 0] > 0
        return own

    def _grown(self, mask: Tensor) -> Tensor:
        return dilate(mask[None], self._dilate)[0]


class LandmarkRegions:
    """Regions from the five landmarks of a face, ``facts["landmarks"]`` in CelebA's order.

    In axes along (x) and down across (y) the line of the eyes, with d the distance between the eyes and w that between
    the corners of the mouth, at least 0.7 d (faces in profile):

    - ``"mouth"``: from the mid-point of the corners, x in +-0.6 w and y in -0.3 w...0.4 w;
    - ``"eyes"``: from each eye, x in +-0.35 d and y in -0.3 d...0.2 d;
    - ``"face"``: an ellipse about the mid-point between eyes and mouth, of half-axes 1.02 and 1.32 times the larger of
      d and the distance from eyes to mouth;
    - ``"background"``: outside of that ellipse enlarged by a third, thus hair, neck and clothes too.

    The numbers are this project's own. On 772 real faces with part masks the mouth box held 99.5 % of the mouth (4 %
    of the image, a third of it mouth), the eye boxes every eye pixel (4 %), the ellipse 83 % of the face (87 % of it
    face); 99 % of the background was not face.

    Images without landmarks, or whose eyes coincide, have empty regions.

    Attributes:
        names: The regions.
    """

    names = ("mouth", "eyes", "face", "background")

    def __call__(self, item: ProbeItem) -> dict[str, Tensor]:
        """By region, ``(H, W)`` bool.

        Raises:
            DatasetError: If the landmarks are not of shape ``(5, 2)``.
        """
        size = item.image.shape[-2:]
        points = torch.as_tensor(item.facts.get("landmarks", torch.zeros(5, 2)), dtype=torch.float64)
        if points.shape != (5, 2):
            raise DatasetError(f"image {item.index}: landmarks of shape {tuple(points.shape)}, expected (5, 2)")
        left, right, _, left_corner, right_corner = points
        d = float((right - left).norm())
        if not (d > 0 and points.isfinite().all()):
            return dict.fromkeys(self.names, torch.zeros(size, dtype=torch.bool))
        axis = (right - left) / d
        eyes, mouth = (left + right) / 2, (left_corner + right_corner) / 2
        w = max(float((right_corner - left_corner).norm()), 0.7 * d)
        radius = _radius((eyes + mouth) / 2, axis, size) / max(float((mouth - eyes).norm()), d)
        return {
            "mouth": _box(mouth, axis, size, 0.6 * w, -0.3 * w, 0.4 * w),
            "eyes": _box(left, axis, size, 0.35 * d, -0.3 * d, 0.2 * d)
            | _box(right, axis, size, 0.35 * d, -0.3 * d, 0.2 * d),
            "face": radius <= 1,
            "background": radius > 4 / 3,
        }


class CheckedRegions:
    """A user's own function for regions, with what it returns checked.

    Args:
        find: From a probe item to ``(H, W)`` bool masks of the image's size, by name.
        names: The regions that are wanted of it.

    Attributes:
        names: As given.
    """

    def __init__(self, find: FindRegions, names: Iterable[str]) -> None:
        self._find = find
        self.names = tuple(names)

    def __call__(self, item: ProbeItem) -> dict[str, Tensor]:
        """By region, ``(H, W)`` bool.

        Raises:
            DatasetError: If a region is not among the masks, or its mask is not a bool tensor of the image's size.
        """
        found, size = self._find(item), item.image.shape[-2:]
        check_names(self.names, found, "region")
        for name in self.names:
            mask = found[name]
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != size:
                kind = f"{mask.dtype} of {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise DatasetError(
                    f"region {name!r} of image {item.index} must be a bool tensor of shape {tuple(size)}, not {kind}"
                )
        return {name: found[name] for name in self.names}


def default_regions(probe: ProbeSet, names: Sequence[str] | None = None) -> RegionFinder:
    """What finds regions on a probe set: its part masks if it has any, else five landmarks.

    Args:
        probe: The probe set; without parts of faces among its concepts, landmarks of one image are enough.
        names: The regions that are wanted; with part masks any object or part will do. None for all the defaults.

    Raises:
        DatasetError: If a region is unknown, with the likely one, or the probe set has neither, with what to do.
    """
    parts = any(name in PART_GROUPS for name in PartRegions(probe).names)
    things = any(concept.category in _THINGS for concept in probe.concepts)
    if not parts and any("landmarks" in probe.facts(index) for index in range(len(probe))):
        check_names(names or (), LandmarkRegions.names, "region")
        return LandmarkRegions()
    if not (parts or (things and names)):
        raise DatasetError(f"{type(probe).__name__} does not say where regions lie; {_FIX}")
    return PartRegions(probe, names)


def equal_area(mask: Tensor, forbidden: Tensor, index: int, seed: int = 0) -> Tensor | None:
    """A region of equal area that has nothing to do with the given one, to calibrate by.

    It is made of the allowed pixels nearest to one of them, which is drawn by seed and index alone.

    Args:
        mask: ``(H, W)`` bool.
        forbidden: ``(H, W)`` bool, further pixels that it must not touch.
        index: The image's number in the probe set.
        seed: At least 0.

    Returns:
        ``(H, W)`` bool, apart from both; None if there is no room, or if ``mask`` is empty.
    """
    area = int(mask.sum())
    allowed = (~(mask | forbidden)).nonzero()
    if not 0 < area <= len(allowed):
        return None
    centre = allowed[int(np.random.default_rng([seed, index]).integers(len(allowed)))]
    nearest = ((allowed - centre) ** 2).sum(1).argsort(stable=True)[:area]
    found = torch.zeros_like(mask)
    found[tuple(allowed[nearest].T)] = True
    return found


def _default_rules(probe: ProbeSet, numbers: Mapping[str, tuple[int, ...]]) -> dict[str, _Rule]:
    groups = {group: _of(numbers, names) for group, names in PART_GROUPS.items()}
    rules = {group: _Rule(own) for group, own in groups.items() if own}
    if "eyes" in rules:
        rules["eyes"] = _Rule(groups["eyes"], lids=() if "eyelid" in numbers else numbers.get("skin", ()))
    if "skin" in numbers:
        rules["skin"] = _Rule(numbers["skin"], without=_of(groups, groups))
    things = tuple(c.number for c in probe.concepts if c.category in _THINGS and c.name != "background")
    if person := numbers.get("person", things):
        rules["background"] = _Rule(person, complement=True)
    return rules


def _of(numbers: Mapping[str, tuple[int, ...]], names: Iterable[str]) -> tuple[int, ...]:
    """The numbers of all those names that have some."""
    return tuple(number for name in names for number in numbers.get(name, ()))


def _along_and_down(centre: Tensor, axis: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Each pixel's ``(H, W)`` float64 place from a centre, along a unit vector and at a right angle down from it."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in size)
    dx, dy = columns - centre[0], (rows - centre[1])[:, None]
    return dx * axis[0] + dy * axis[1], dy * axis[0] - dx * axis[1]


def _box(centre: Tensor, axis: Tensor, size: torch.Size, half_width: float, top: float, bottom: float) -> Tensor:
    along, down = _along_and_down(centre, axis, size)
    return (along.abs() <= half_width) & (top <= down) & (down <= bottom)


def _radius(centre: Tensor, axis: Tensor, size: torch.Size) -> Tensor:
    along, down = _along_and_down(centre, axis, size)
    return ((along / 1.02) ** 2 + (down / 1.32) ** 2).sqrt()
