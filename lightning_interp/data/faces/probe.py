"""The embedded probe and training set: rendered faces that need no download."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_interp.data.faces.concepts import FACE_CONCEPTS
from lightning_interp.data.faces.correlated import Correlations, checked_pairs
from lightning_interp.data.faces.records import ATTRIBUTES, TARGET, FaceRecords, check_attribute, draw_faces
from lightning_interp.data.faces.render import Rendering, check_size, render
from lightning_interp.data.probe import Labels, ProbeSet
from lightning_interp.errors import DatasetError

# Faces rendered when one of them is asked for.
_CHUNK = 256


class RenderedFaces(ProbeSet):
    """Rendered faces with exact label planes, landmarks, attributes and counterfactuals.

    Pictures are drawn 256 at a time when one of them is first asked for, then kept as bytes (41 kB a face at 64
    pixels). Face ``i`` depends on ``i``, ``seed``, ``size``, ``correlations`` and ``strengths`` alone, to the bit on
    one kind of CPU.

    Args:
        num_images: Number of faces.
        size: Height and width of images and label planes, at least 32.
        seed: Seed of the faces, at least 0.
        correlations: By attribute, its correlation rho with lipstick, in [-1, 1]: the two are equal for a share
            (1 + rho) / 2 of the faces. A pair such as ``("makeup", "blond")`` has the rho of those two. Every
            attribute is 1 for half of the faces; those not named are independent, and those at the ends of a chain
            of pairs have the product of its correlations (:func:`~lightning_interp.data.faces.correlated.joint_table`).
        strengths: How strong a cue is: by ``"lipstick"`` or ``"makeup"``, the range of the share of its colour that
            is mixed in. Lipstick's (0.2, 0.6) and make-up's (0.5, 0.9) make make-up the easier cue, without which
            no network learns the shortcut.
        normalize: ``(mean, std)`` by channel for images in [0, 1]; None to leave them.

    Attributes:
        records: The parameters of all faces; ``render(probe.records[i], do={"lipstick": 1})`` draws face ``i`` with
            one attribute changed and nothing else.

    Raises:
        DatasetError: If the number, size, seed, a correlation or a strength is out of range, an attribute is
            unknown, or correlations contradict each other.

    Example:
        >>> probe = RenderedFaces(4, size=32)
        >>> probe.image(0).shape, sorted(probe.labels(0).planes), sorted(probe.facts(0)["attributes"])[:3]
        (torch.Size([3, 32, 32]), ['color', 'material', 'object', 'part', 'texture'], ['blond', 'glasses', 'hat'])
    """

    def __init__(
        self,
        num_images: int = 2000,
        *,
        size: int = 64,
        seed: int = 0,
        correlations: Correlations | None = None,
        strengths: Mapping[str, tuple[float, float]] | None = None,
        normalize: tuple[Sequence[float], Sequence[float]] | None = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ):
        check_size(size)
        if num_images < 1 or seed < 0:
            raise DatasetError(f"give num_images of at least 1 and a seed of at least 0, not {num_images} and {seed}")
        self.size, self.seed = size, seed
        self.correlations = dict(correlations or {})
        self.strengths = dict(strengths or {})
        self.records = draw_faces(num_images, seed, self.correlations, self.strengths)
        self.concepts = FACE_CONCEPTS
        self.mask_size = (size, size)
        self.normalize = normalize and (tuple(normalize[0]), tuple(normalize[1]))
        self._chunks: dict[int, Rendering] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        # Pictures follow from the records; a checkpoint that holds the set should not hold them.
        return self.__dict__ | {"_chunks": {}}

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside this probe set of {len(self)} images")

    def _chunk(self, index: int) -> tuple[Rendering, int]:
        """The rendering that holds a face, and the face's position in it."""
        self._check_index(index)
        number, row = divmod(index, _CHUNK)
        if number not in self._chunks:
            first = number * _CHUNK
            self._chunks[number] = render(self.records[first : first + _CHUNK], size=self.size)
        return self._chunks[number], row

    def image(self, index: int) -> Tensor:
        """``(3, S, S)`` uint8, RGB."""
        rendering, row = self._chunk(index)
        return rendering.images[row]

    def labels(self, index: int) -> Labels:
        """Planes ``(P, S, S)`` int16 of object, part (two each), material, texture and color; the scene."""
        rendering, row = self._chunk(index)
        planes = {category: planes[row].short() for category, planes in rendering.planes.items()}
        return Labels(planes, {"scene": (int(rendering.scenes[row]),)})

    def facts(self, index: int) -> Mapping[str, Any]:
        """``"landmarks"``: ``(5, 2)`` float32 in CelebA's order; ``"attributes"``: name to 0 or 1."""
        rendering, row = self._chunk(index)
        attributes = {name: int(self.records.values[name][index]) for name in ATTRIBUTES}
        return {"landmarks": rendering.landmarks[row], "attributes": attributes}

    def record(self, index: int) -> FaceRecords:
        """The parameters of one face, a batch of one."""
        return self.records[index]

    def counterfactuals(self, indices: Sequence[int], do: Mapping[str, int]) -> Tensor:
        """The same faces with attributes set and nothing else changed, ``(B, 3, S, S)`` uint8.

        They are drawn anew at each call, at about the cost of as many faces, and not kept; but a face that has those
        values already is the set's own picture, where that has been drawn.

        Args:
            indices: B faces, in any order.
            do: Attribute name to 0 or 1; empty gives the faces as they are.

        Raises:
            DatasetError: If an attribute is unknown or its value is neither 0 nor 1.
            IndexError: If a face is outside the set.
        """
        for index in indices:
            self._check_index(index)
        faces = torch.tensor([int(index) for index in indices], dtype=torch.int64)
        records = self.records[faces]
        after = records.do(do)
        known = torch.tensor([int(face) // _CHUNK in self._chunks for face in faces], dtype=torch.bool)
        known &= (after.attributes == records.attributes).all(dim=1)
        with torch.inference_mode(False):  # whoever asks first, they are kept for others
            images = torch.empty(len(faces), 3, self.size, self.size, dtype=torch.uint8)
        for row in known.nonzero().flatten().tolist():
            images[row] = self.image(int(faces[row]))
        if not bool(known.all()):
            images[~known] = render(after[~known], size=self.size).images
        return images

    def split(
        self, seed: int, *, num_images: int | None = None, correlations: Correlations | None = None
    ) -> "RenderedFaces":
        """Other faces of the same kind, to validate or test on.

        Args:
            seed: Seed of the other faces.
            num_images: How many; as many as here by default.
            correlations: Those of the split. None takes the ones of this set, so that the split shares its bias;
                ``{}`` gives the unbiased split.

        Raises:
            DatasetError: If the seed is this set's own, which would give the same faces again, or an argument is
                refused.

        Example:
            >>> train = RenderedFaces(8, size=32, seed=1, correlations={"makeup": 0.95})
            >>> biased, unbiased = train.split(2), train.split(3, correlations={})
            >>> biased.correlations, unbiased.correlations
            ({'makeup': 0.95}, {})
        """
        if seed == self.seed:
            raise DatasetError(f"seed {seed} is that of this set: the split would have the same faces")
        return RenderedFaces(
            len(self) if num_images is None else num_images,
            size=self.size,
            seed=seed,
            correlations=self.correlations if correlations is None else correlations,
            strengths=self.strengths,
            normalize=self.normalize,
        )

    def describe(self) -> dict[str, Any]:
        """What identifies the set; a pair of attributes as ``"makeup-blond"``, with lipstick as ``"makeup"``."""
        pairs = checked_pairs(ATTRIBUTES, self.correlations)
        correlations = {b if a == TARGET else f"{a}-{b}": rho for (a, b), rho in pairs.items()}
        own = {"size": self.size, "seed": self.seed, "correlations": correlations}
        return super().describe() | own | ({"strengths": self.strengths} if self.strengths else {})

    def classification(self, attributes: Sequence[str] = ("lipstick",)) -> "FaceAttributes":
        """The faces as a training set for the given attributes.

        Raises:
            DatasetError: If an attribute is unknown.
        """
        return FaceAttributes(self, tuple(attributes))


@dataclasses.dataclass(frozen=True)
class FaceAttributes(Dataset[tuple[Tensor, Tensor]]):
    """Images and attributes of rendered faces, for training; see :meth:`RenderedFaces.classification`.

    Args:
        faces: The faces.
        attributes: The K attributes to predict.
    """

    faces: RenderedFaces
    attributes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.attributes:
            check_attribute(name)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image ``(3, S, S)`` float32, normalised as the probe set says, and ``(K,)`` float32 of 0 and 1."""
        image = self.faces.image(index).float() / 255
        if self.faces.normalize is not None:
            mean, std = (torch.tensor(values)[:, None, None] for values in self.faces.normalize)
            image = (image - mean) / std
        values = self.faces.records.values
        return image, torch.tensor([float(values[name][index]) for name in self.attributes])
