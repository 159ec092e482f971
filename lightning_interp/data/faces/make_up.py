"""Make-up rendered onto photos of faces by their part masks, so that ``do(lipstick)`` is exact on real pictures.

The idea is that of the rendered faces on photos: an attribute whose pixels are known and that can be put on and taken
off with nothing else changed. What is done to the colours is this project's own definition.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from lightning_interp.data.faces.correlated import draw_attributes, joint_table
from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.errors import DatasetError, check_names

MAKE_UP = ("lipstick", "makeup")
"""What can be put on: lipstick on the lips, eye-shadow on the lids."""

_LIPS = ("lip", "u_lip", "l_lip")
_EYES = ("eye", "l_eye", "r_eye")
_SKIN = ("skin",)
# Ends of the range of hues, a* and b* of CIE Lab: scarlet to raspberry, blue to violet.
_HUES = {"lipstick": ((58.0, 26.0), (58.0, 0.0)), "makeup": ((8.0, -46.0), (36.0, -40.0))}
_STRENGTHS = {"lipstick": (0.2, 0.5), "makeup": (0.5, 0.9)}
# Height and width of the eye-shadow around each pixel of an eye, in square roots of one eye's area.
_LID_HEIGHT, _LID_WIDTH = 1.3, 0.3
# Linear sRGB to CIE XYZ (IEC 61966-2-1), rows divided by the white point D65; and CIE's constant 6/29.
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_TO_XYZ = torch.from_numpy(_XYZ / _XYZ.sum(axis=1, keepdims=True))
_FROM_XYZ = torch.linalg.inv(_TO_XYZ)
_DELTA = 6 / 29


def recolour(
    images: Tensor,
    masks: Mapping[str, Tensor],
    do: Mapping[str, int | Tensor],
    *,
    hues: Mapping[str, Tensor],
    strengths: Mapping[str, Tensor],
) -> Tensor:
    """Put make-up on: mix a hue into the masked pixels, in CIE Lab at unchanged lightness.

    ``a* <- (1 - strength) a* + strength hue_a``, likewise ``b*``, while ``L*`` keeps the light and shade of the photo;
    colours outside sRGB are clipped, which moves ``L*`` a little. With 0 the photo's own colour is left: natural or
    worn, the lips stay what they are, so the attribute means the make-up that was rendered. Pixels outside the masks
    keep every bit.

    Args:
        images: ``(B, 3, H, W)``, RGB, uint8 or float in [0, 1].
        masks: By attribute, ``(B, H, W)`` bool: the pixels that it colours.
        do: By attribute, 0 or 1, for all images or ``(B,)`` one each; attributes with a mask that are not named
            are left off.
        hues: By attribute, ``(B, 2)`` or ``(2,)`` a* and b*, each within about -100...100.
        strengths: By attribute, ``(B,)`` or a scalar tensor, in [0, 1].

    Returns:
        New images, as ``images``.

    Raises:
        DatasetError: If an attribute has no mask, or is set to something else than 0 or 1.

    Example:
        >>> grey, lips = torch.full((1, 3, 1, 2), 0.5), torch.tensor([[[True, False]]])
        >>> hue, strength = {"lipstick": torch.tensor([60.0, 20.0])}, {"lipstick": torch.tensor(0.5)}
        >>> red = recolour(grey, {"lipstick": lips}, {"lipstick": 1}, hues=hue, strengths=strength)
        >>> [[round(value, 2) for value in pixel] for pixel in red[0, :, 0].T.tolist()]
        [[0.71, 0.42, 0.44], [0.5, 0.5, 0.5]]
    """
    coloured = images.clone()
    pixels = coloured.permute(0, 2, 3, 1)
    for name, value in do.items():
        check_names([name], tuple(masks), "attribute")
        on = torch.as_tensor(value, device=images.device).expand(len(images))
        if not ((on == 0) | (on == 1)).all():
            raise DatasetError(f"attribute {name!r} can be set to 0 or 1, not {value!r}")
        mask = masks[name] & (on == 1)[:, None, None]
        image = mask.nonzero()[:, 0]
        hue, strength = hues[name].expand(len(images), 2)[image], strengths[name].expand(len(images))[image]
        own = pixels[mask]
        tinted = _tint(own.double() / (1 if own.is_floating_point() else 255), hue, strength)
        pixels[mask] = tinted.to(own.dtype) if own.is_floating_point() else (tinted * 255).round().to(own.dtype)
    return coloured


def eyelids(eyes: Tensor, skin: Tensor) -> Tensor:
    """Where eye-shadow goes: the skin above and a little beside the eyes, up to the brows.

    A pixel of an eye reaches 1.3 square roots of one eye's area upwards and 0.3 to each side; brows, hair and glasses
    are no skin. This project's own rule, chosen by looking at photos.

    Args:
        eyes: ``(B, H, W)`` bool, both eyes.
        skin: ``(B, H, W)`` bool, bare skin.

    Returns:
        ``(B, H, W)`` bool; nothing where there is no eye.
    """
    lids = [_above(eye, float(eye.sum() / 2) ** 0.5) for eye in eyes]
    return torch.stack(lids) & skin if lids else skin.clone()


class Recoloured(ProbeSet):
    """Photos of faces with rendered make-up on some of them: a planted bias on real pictures.

    Each face's labels ``"lipstick"`` and ``"makeup"`` are drawn with the correlation asked for and then rendered
    (:func:`recolour`), with a hue and a strength of its own that counterfactuals keep. The eye-shadow's place is an
    additional concept, the part ``"eyelid"``, so that regions by parts cover it.

    Args:
        faces: Photos with the parts skin, eye and lip (``"u_lip"``, ``"l_lip"``), label planes of the photos' size.
        rho: Correlation of lipstick and make-up, in [-1, 1]; each is 1 for half of the faces.
        seed: Seed of labels, hues and strengths, at least 0. Those of a photo depend on the seed, rho and its index
            in ``faces`` alone.
        strengths: How strong a cue is: by attribute, the range that its strength is drawn from evenly. Lipstick
            (0.2, 0.5) and make-up (0.5, 0.9) by default, which makes make-up the easier cue, as a shortcut has to be.
        indices: The photos of ``faces`` to use, such as those kept for training; all by default.

    Raises:
        DatasetError: If a part has no concept, label planes are not of the photos' size, an index is outside of
            ``faces``, or rho, seed or a range is refused.
    """

    def __init__(
        self,
        faces: ProbeSet,
        *,
        rho: float = 0.0,
        seed: int = 0,
        strengths: Mapping[str, tuple[float, float]] | None = None,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.faces, self.rho, self.seed = faces, rho, seed
        self.strengths = _STRENGTHS | dict(strengths or {})
        self.indices = tuple(range(len(faces)) if indices is None else indices)
        _check(faces, self.indices, rho, seed, self.strengths)
        self._parts = {
            part: _numbers(faces, names) for part, names in (("lip", _LIPS), ("eye", _EYES), ("skin", _SKIN))
        }
        self._lid = 1 + max(concept.number for concept in faces.concepts)
        self.concepts = (*faces.concepts, Concept(self._lid, "eyelid", "part"))
        self.mask_size, self.normalize = faces.mask_size, faces.normalize
        dice = np.random.default_rng(seed).random((len(faces), 6))[list(self.indices)].T
        drawn = draw_attributes(joint_table(MAKE_UP, {MAKE_UP: rho}), list(dice[:2]))
        self._own = {name: torch.from_numpy(column) for name, column in zip(MAKE_UP, drawn, strict=True)}
        self._strength = {
            name: _between(self.strengths[name], die) for name, die in zip(MAKE_UP, dice[2:4], strict=True)
        }
        self._hue = {name: _between(_HUES[name], die) for name, die in zip(MAKE_UP, dice[4:], strict=True)}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def image(self, index: int) -> Tensor:
        """The photo with its make-up on, ``(3, H, W)``, as the wrapped set gives it."""
        return self.counterfactuals([index], {})[0]

    def labels(self, index: int) -> Labels:
        """The wrapped set's labels, and the plane of the eyelids among the parts."""
        labels = self.faces.labels(self.indices[index])
        lids = self._lid * self._masks(labels)["makeup"].int()
        parts = [labels.planes["part"].reshape(-1, *self.mask_size)] if "part" in labels.planes else []
        return Labels({**labels.planes, "part": torch.cat([*parts, lids])}, labels.image)

    def facts(self, index: int) -> Mapping[str, Any]:
        """The wrapped set's facts, with ``"lipstick"`` and ``"makeup"`` as they were drawn among the attributes."""
        facts = self.faces.facts(self.indices[index])
        own = {name: int(values[index]) for name, values in self._own.items()}
        return {**facts, "attributes": {**facts.get("attributes", {}), **own}}

    def counterfactuals(self, indices: Sequence[int], do: Mapping[str, int]) -> Tensor:
        """The same photos with make-up put on or left off and nothing else changed, ``(B, 3, H, W)``.

        Args:
            indices: B images, in any order.
            do: ``"lipstick"`` or ``"makeup"`` to 0 or 1; those not named stay as they were drawn.

        Raises:
            DatasetError: If an attribute is unknown or its value is neither 0 nor 1, or a file cannot be read.
            IndexError: If an image is outside the set.
        """
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"index {index} is outside this probe set of {len(self)} images")
        if not indices:
            return self.faces.image(self.indices[0])[None][:0]
        at = torch.tensor([int(index) for index in indices], dtype=torch.int64)
        sources = [self.indices[index] for index in indices]
        masks = [self._masks(self.faces.labels(source)) for source in sources]
        return recolour(
            torch.stack([self.faces.image(source) for source in sources]),
            {name: torch.cat([mask[name] for mask in masks]) for name in MAKE_UP},
            {name: values[at] for name, values in self._own.items()} | dict(do),
            hues={name: hue[at] for name, hue in self._hue.items()},
            strengths={name: strength[at] for name, strength in self._strength.items()},
        )

    def describe(self) -> dict[str, Any]:
        """What identifies the set: the wrapped one and what was drawn."""
        own = {"rho": self.rho, "seed": self.seed, "strengths": self.strengths, "indices": list(self.indices)}
        return super().describe() | own | {"faces": self.faces.describe()}

    def _masks(self, labels: Labels) -> dict[str, Tensor]:
        """By attribute, ``(1, H, W)`` bool: the pixels it colours."""
        planes = torch.cat([plane.reshape(-1, *self.mask_size).long() for plane in labels.planes.values()])
        lip, eye, skin = (
            torch.isin(planes, torch.tensor(self._parts[part])).any(dim=0)[None] for part in ("lip", "eye", "skin")
        )
        return {"lipstick": lip, "makeup": eyelids(eye, skin)}


def _tint(rgb: Tensor, hue: Tensor, strength: Tensor) -> Tensor:
    """``(P, 3)`` float64 colours in [0, 1] with ``(P, 2)`` hues mixed in by ``(P,)`` strengths.

    In float32 the last bit, and with it a rounded byte, would depend on how many pixels are computed at once.
    """
    lab = _to_lab(rgb)
    mixed = lab[:, 1:] + strength[:, None] * (hue - lab[:, 1:])
    return _from_lab(torch.cat([lab[:, :1], mixed], dim=1)).clamp(0, 1)


def _to_lab(rgb: Tensor) -> Tensor:
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.to(rgb.device).T
    x, y, z = torch.where(xyz > _DELTA**3, xyz ** (1 / 3), xyz / (3 * _DELTA**2) + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _from_lab(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    xyz = torch.where(root > _DELTA, root**3, 3 * _DELTA**2 * (root - 4 / 29))
    linear = (xyz @ _FROM_XYZ.to(lab.device).T).clamp(min=0)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _above(eye: Tensor, unit: float) -> Tensor:
    """``(H, W)`` bool: pixels with an eye at most so far below or beside them."""
    up, aside = round(_LID_HEIGHT * unit), round(_LID_WIDTH * unit)
    seen = pad(eye.float()[None], (aside, aside, 0, up))
    return max_pool2d(seen, (up + 1, 2 * aside + 1), stride=1)[0] > 0


def _between(ends: Any, dice: NDArray[np.float64]) -> Tensor:
    """``(N, ...)`` float32 between two ends, each a number or several."""
    low, high = torch.tensor(ends).unbind(0)
    return low + (high - low) * torch.from_numpy(dice).float().view(-1, *[1] * low.ndim)


def _numbers(faces: ProbeSet, names: Sequence[str]) -> list[int]:
    numbers = [concept.number for concept in faces.concepts if concept.name in names]
    if not numbers:
        raise DatasetError(f"the faces have no concept {' or '.join(names)}, which make-up needs")
    return numbers


def _check(
    faces: ProbeSet, indices: Sequence[int], rho: float, seed: int, strengths: Mapping[str, tuple[float, float]]
) -> None:
    if not -1 <= rho <= 1 or seed < 0:
        raise DatasetError(f"give rho in [-1, 1] and a seed of at least 0, not {rho} and {seed}")
    if wrong := [index for index in indices if not 0 <= index < len(faces)]:
        raise DatasetError(f"index {wrong[0]} is outside of the {len(faces)} faces")
    if not indices:
        raise DatasetError("no face to put make-up on")
    for name, (low, high) in strengths.items():
        check_names([name], MAKE_UP, "attribute")
        if not 0 <= low <= high <= 1:
            raise DatasetError(f"strengths[{name!r}] = {(low, high)}: give (low, high) in [0, 1]")
    if (size := tuple(faces.image(indices[0]).shape[-2:])) != tuple(faces.mask_size):
        raise DatasetError(f"photos of {size} (h, w) with label planes of {faces.mask_size}: give both one size")
