"""What can be seen on a rendered face and its background, and which concepts each of it carries."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_interp.data.probe import BRODEN_CATEGORIES, Concept

TEXTURES = ("striped", "dotted", "chequered", "grid", "zigzagged")
INDOOR = ("room", "kitchen")
OUTDOOR = ("beach", "forest", "valley", "night")
SCENES = INDOOR + OUTDOOR
# Broden's colour categories: the eleven basic colour terms.
COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
# Light (value) above which a colour of little chroma is white, below which everything is black.
_WHITE_ABOVE, _BLACK_BELOW = 0.82, 0.2
_HUE_LIMITS = np.array([12.0, 44.0, 68.0, 168.0, 258.0, 315.0, 345.0])
_HUE_NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "red")


@dataclass(frozen=True)
class Surface:
    """One kind of visible surface: names of the concepts that its pixels carry, coarse before fine."""

    object: tuple[str, ...]
    part: tuple[str, ...] = ()
    material: tuple[str, ...] = ()
    texture: tuple[str, ...] = ()


def _person(*objects: str) -> tuple[str, ...]:
    return ("person", *objects)


# The same name in two categories is one concept, as in Broden ("hair" is an object and a material).
SURFACES: Mapping[str, Surface] = {
    "wall": Surface(("wall",), material=("plaster",)),
    "tiles": Surface(("wall",), material=("tile",), texture=("grid",)),
    "painting": Surface(("painting",)),
    "cabinet": Surface(("cabinet",), material=("wood",)),
    "sky": Surface(("sky",)),
    "sun": Surface(("sun",)),
    "moon": Surface(("moon",)),
    "sea": Surface(("sea",), material=("water",)),
    "beach": Surface(("ground",), material=("sand",)),
    "grass": Surface(("ground",), material=("foliage",)),
    "rock": Surface(("mountain",), material=("stone",)),
    "snow": Surface(("mountain",), material=("snow",)),
    "building": Surface(("building",), material=("concrete",)),
    "window": Surface(("building",), material=("glass",)),
    "trunk": Surface(("tree",), material=("wood",)),
    "leaves": Surface(("tree",), material=("foliage",)),
    "hair": Surface(_person("hair"), material=("hair",), texture=("fibrous",)),
    "neck": Surface(_person(), ("neck",), ("skin",)),
    "shirt": Surface(_person("shirt"), material=("fabric",)),
    "ear": Surface(_person("face"), ("ear",), ("skin",)),
    "skin": Surface(_person("face"), material=("skin",)),
    "eyelid": Surface(_person("face"), ("eyelid",), ("skin",)),
    "eye": Surface(_person("face"), ("eye",)),
    "iris": Surface(_person("face"), ("eye", "iris")),
    "eyebrow": Surface(_person("face"), ("eyebrow",)),
    "nose": Surface(_person("face"), ("nose",), ("skin",)),
    "lip": Surface(_person("face"), ("mouth", "lip"), ("skin",)),
    "mouth": Surface(_person("face"), ("mouth",)),
    "teeth": Surface(_person("face"), ("mouth", "teeth")),
    "hat": Surface(_person("hat"), material=("fabric",)),
    "metal glasses": Surface(_person("glasses"), material=("metal",)),
    "plastic glasses": Surface(_person("glasses"), material=("plastic",)),
}
SURFACE_ID = {name: number for number, name in enumerate(SURFACES)}
# Planes of each category of pixel labels: an object may be a person's, a part may have a finer one.
_DEPTH = {"object": 2, "part": 2, "material": 1, "texture": 1}


def _concepts() -> tuple[Concept, ...]:
    names: dict[str, list[str]] = {category: [] for category in BRODEN_CATEGORIES}
    for surface in SURFACES.values():
        for category in _DEPTH:
            names[category] += getattr(surface, category)
    names["texture"] += TEXTURES
    names["scene"] += SCENES
    names["color"] += COLOURS
    category_of: dict[str, str] = {}
    for category, listed in names.items():
        for name in listed:
            category_of.setdefault(name, category)
    return tuple(Concept(i, name, category) for i, (name, category) in enumerate(category_of.items(), 1))


FACE_CONCEPTS = _concepts()
"""Every concept of the rendered faces, numbered from 1."""

NUMBER = {concept.name: concept.number for concept in FACE_CONCEPTS}
"""Label number of each concept, by name."""


def _table(category: str) -> Tensor:
    table = torch.zeros((_DEPTH[category], len(SURFACES)), dtype=torch.uint8)
    for column, surface in enumerate(SURFACES.values()):
        for row, name in enumerate(getattr(surface, category)):
            table[row, column] = NUMBER[name]
    return table


PLANE_TABLES: Mapping[str, Tensor] = {category: _table(category) for category in _DEPTH}
"""By category, ``(P, surfaces)`` uint8: label numbers of each surface."""


def _colour_table() -> Tensor:
    """``(32768,)`` uint8: label number of each colour of 5 bits a channel, red slowest.

    The table's layout is that of van de Weijer et al. 2009 ("Learning color names"), which Broden used; its
    contents are plain rules on hue, saturation and value, for those learnt names cannot be shipped.
    """
    level = (np.arange(32) + 0.5) / 32
    r, g, b = (axis.ravel() for axis in np.meshgrid(level, level, level, indexing="ij"))
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    saturation = chroma / value
    safe = np.where(chroma > 0, chroma, 1.0)
    hue = np.where(value == r, (g - b) / safe % 6, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    name = np.array(_HUE_NAMES)[np.searchsorted(_HUE_LIMITS, hue * 60.0, side="right")]
    warm = np.isin(name, ("red", "orange"))
    pale = saturation < 0.5
    name = np.where(warm & pale & (value > 0.72), "pink", name)
    name = np.where((name == "orange") & ((value <= 0.72) | pale), "brown", name)
    name = np.where((name == "red") & ((value < 0.45) | pale), "brown", name)
    name = np.where((name == "yellow") & (value < 0.5), "brown", name)
    name = np.where(saturation < 0.17, np.where(value > _WHITE_ABOVE, "white", "grey"), name)
    name = np.where(value < _BLACK_BELOW, "black", name)
    return torch.tensor([NUMBER[n] for n in name.tolist()], dtype=torch.uint8)


_COLOUR_TABLE = _colour_table()


def colour_labels(images: Tensor) -> Tensor:
    """Colour name of every pixel.

    Args:
        images: ``(B, 3, H, W)`` uint8, RGB.

    Returns:
        ``(B, H, W)`` uint8, label numbers of one of :data:`COLOURS` each.
    """
    r, g, b = (images >> 3).int().unbind(1)
    return _COLOUR_TABLE[(r << 10) + (g << 5) + b]
