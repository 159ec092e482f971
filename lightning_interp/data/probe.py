"""What a probe set is: images with label planes, image-level labels, and whatever else is known of them."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

BRODEN_CATEGORIES = ("object", "part", "scene", "material", "texture", "color")


@dataclass(frozen=True)
class Concept:
    """One label of a probe set.

    Args:
        number: The value that label planes and image-level labels use for it; at least 1 (0 is "unlabelled").
            Numbers may have gaps.
        name: What a person calls it.
        category: Its primary category (Broden's rule: the category in which it covers most).
    """

    number: int
    name: str
    category: str


@dataclass(frozen=True)
class Labels:
    """The labels of one image.

    Args:
        planes: By category, integer label numbers of shape ``(h, w)`` or ``(P, h, w)``, 0 where unlabelled. A
            number may stand in several planes and categories; a pixel carries the *set* of its numbers.
        image: By category, numbers that hold for the whole image; each stands for every pixel. 0 is ignored.
    """

    planes: Mapping[str, Tensor] = field(default_factory=dict)
    image: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeItem:
    """One image of a probe set with everything known of it.

    Args:
        index: Its position in the probe set.
        image: ``(C, H, W)``, uint8, or float in [0, 1] (any range if the set does its own normalisation).
        labels: Its label planes and image-level labels.
        facts: What else is known, by name: ``"landmarks"`` (``(K, 2)`` float, x and y in pixels of the image),
            ``"attributes"`` (name to number), and the like.
    """

    index: int
    image: Tensor
    labels: Labels
    facts: Mapping[str, Any] = field(default_factory=dict)


class ProbeSet(Dataset[ProbeItem], ABC):
    """A map-style, index-stable set of labelled images: item ``i`` is the same at every call, on every process.

    To use your own data, subclass it, set the three attributes in ``__init__`` and write three short methods::

        class MyProbe(ProbeSet):
            def __init__(self):
                self.concepts = (Concept(1, "wheel", "part"), Concept(2, "car", "object"))
                self.mask_size = (112, 112)
            def __len__(self): ...
            def image(self, index): ...      # (C, H, W) uint8 or float
            def labels(self, index): ...     # Labels({"object": plane, "part": planes}, {"scene": (7,)})

    Attributes:
        concepts: Every label, in the order of the result tables.
        mask_size: ``(h, w)`` of every label plane; activation maps are upsampled to it.
        normalize: ``(mean, std)`` by channel, applied to images in [0, 1] before the network sees them; None for
            networks that take them as they are.
    """

    concepts: tuple[Concept, ...]
    mask_size: tuple[int, int]
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Image ``index``: ``(C, H, W)``, uint8 or float; one shape for the whole set."""

    @abstractmethod
    def labels(self, index: int) -> Labels:
        """Labels of image ``index``, each plane of size ``mask_size``."""

    def facts(self, index: int) -> Mapping[str, Any]:
        """Landmarks, attributes and the like of image ``index``; empty unless a subclass knows some."""
        return {}

    def __getitem__(self, index: int) -> ProbeItem:
        """Image, labels and facts of ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside this probe set of {len(self)} images")
        return ProbeItem(index, self.image(index), self.labels(index), self.facts(index))

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories that have a concept, Broden's six first and in its order."""
        own = {concept.category for concept in self.concepts}
        known = tuple(name for name in BRODEN_CATEGORIES if name in own)
        return known + tuple(sorted(own - set(known)))

    def describe(self) -> dict[str, Any]:
        """What identifies the set, JSON-able; subclasses add what they were built from (seed, folder name...)."""
        return {
            "kind": type(self).__name__,
            "images": len(self),
            "mask_size": list(self.mask_size),
            "normalize": self.normalize,
            "concepts": [[c.number, c.name, c.category] for c in self.concepts],
        }

    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of :meth:`describe`."""
        text = json.dumps(self.describe(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
