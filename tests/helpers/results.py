"""Small dissections to look at and to count by hand, with a probe set in memory."""

from collections.abc import Sequence

import numpy as np
import torch

from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.drawing.pictures import upsample_map
from lightning_interp.methods.dissection.result import DissectionResult, LayerDissection, Tallies, TopImages

CONCEPTS = (
    Concept(1, "disc", "object"),
    Concept(2, "stripe", "texture"),
    Concept(5, "red", "color"),
    Concept(7, "rim", "part"),
)
CATEGORIES = ("object", "part", "texture", "color")
SIZE = 32


class DiscProbe(ProbeSet):
    """Discs on a ground: even images a red disc, odd ones a striped grey one; a concept is one plane."""

    def __init__(self, images: int = 10) -> None:
        self.concepts = CONCEPTS
        self.mask_size = (SIZE, SIZE)
        self._images = images

    def __len__(self) -> int:
        return self._images

    def distance(self, index: int) -> torch.Tensor:
        rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        return torch.hypot(rows - (8.0 + 2 * (index % 8)), columns - (22.0 - index % 11))

    def image(self, index: int) -> torch.Tensor:
        disc = self.distance(index) < 8
        ground = torch.tensor([70, 110, 90], dtype=torch.uint8)[:, None, None].expand(3, SIZE, SIZE).clone()
        stripes = (torch.arange(SIZE) // 3 % 2 * 120 + 80).to(torch.uint8).expand(3, SIZE, SIZE)
        red = torch.tensor([200, 40, 40], dtype=torch.uint8)[:, None, None].expand(3, SIZE, SIZE)
        return torch.where(disc, red if index % 2 == 0 else stripes, ground)

    def masks(self, index: int) -> torch.Tensor:
        """``(C, h, w)`` bool, in the order of the concepts."""
        distance = self.distance(index)
        disc, even = distance < 8, torch.tensor(index % 2 == 0)
        return torch.stack([disc, disc & ~even, disc & even, disc & (distance > 6)])

    def labels(self, index: int) -> Labels:
        masks = self.masks(index).long()
        return Labels({c.category: masks[i] * c.number for i, c in enumerate(self.concepts)})


def planted_layer(probe: DiscProbe, name: str = "layer4", units: int = 8, top: int = 4) -> LayerDissection:
    """Unit u follows concept u % 4 less and less; the last but one is constant, the last saw a NaN."""
    generator = np.random.default_rng(0)
    masks = np.stack([probe.masks(i).numpy() for i in range(len(probe))])
    coarse = masks.reshape(len(probe), 4, 8, 4, 8, 4).mean((3, 5))
    noise = generator.random((len(probe), units, 8, 8)) * np.linspace(0.1, 1.0, units)[:, None, None]
    maps = (coarse[:, np.arange(units) % 4] + noise).astype(np.float32)
    maps[:, -2] = 1.0
    thresholds = np.quantile(maps.astype(np.float64), 0.9, axis=(0, 2, 3))
    thresholds[-1] = np.nan
    anchors = (tuple(1.5 + 4.0 * i for i in range(8)),) * 2
    active = upsample_map(maps, anchors, "hold", (SIZE, SIZE)) > thresholds[:, None, None]
    order = np.argsort(-maps.max((2, 3)), axis=0, kind="stable")[:top].T
    best = np.take_along_axis(maps.transpose(1, 0, 2, 3), order[:, :, None, None], axis=1)
    flat = best.reshape(units, top, 64).argmax(2)
    return LayerDissection(
        layer=name,
        concepts=probe.concepts,
        categories=CATEGORIES,
        thresholds=thresholds,
        status=("ok",) * (units - 2) + ("constant", "non-finite"),
        nonfinite=np.array([0] * (units - 1) + [3]),
        tallies=_tallies(active, masks),
        chance=_tallies(active, np.roll(masks, 3, axis=0)),
        top=TopImages(order, best.max((2, 3)), np.stack([flat // 8, flat % 8], -1), best),
        iou_threshold=0.04,
        anchors=anchors,
        border="hold",
    )


def _tallies(active: np.ndarray, masks: np.ndarray) -> Tallies:
    area = active.sum((0, 2, 3), dtype=np.int64)
    return Tallies(
        intersection=np.einsum("nuhw,nchw->uc", active.astype(np.int64), masks.astype(np.int64)),
        unit_area=np.repeat(area[:, None], len(CATEGORIES), 1),
        concept_area=masks.sum((0, 2, 3), dtype=np.int64),
        pixels=np.full(len(CATEGORIES), masks[:, 0].size, dtype=np.int64),
    )


def counted_layer(
    intersection: Sequence[Sequence[int]],
    chance: Sequence[Sequence[int]],
    concepts: Sequence[Concept] = CONCEPTS,
    status: Sequence[str] | None = None,
    name: str = "layer4",
) -> LayerDissection:
    """A layer of given counts: every unit and every concept covers 100 pixels, so IoU is I / (200 - I)."""
    found = np.array(intersection, dtype=np.int64).reshape(-1, len(concepts))
    units, categories = len(found), tuple(dict.fromkeys(c.category for c in concepts))

    def tallies(counts: np.ndarray) -> Tallies:
        area = np.full((units, len(categories)), 100, dtype=np.int64)
        hundred = np.full(len(concepts), 100, dtype=np.int64)
        return Tallies(counts, area, hundred, np.full(len(categories), 10_000, dtype=np.int64))

    return LayerDissection(
        layer=name,
        concepts=tuple(concepts),
        categories=categories,
        thresholds=np.linspace(0.5, 1.5, units),
        status=tuple(status) if status else ("ok",) * units,
        nonfinite=np.zeros(units, dtype=np.int64),
        tallies=tallies(found),
        chance=tallies(np.array(chance, dtype=np.int64).reshape(found.shape)),
        top=TopImages(
            index=np.full((units, 2), -1, dtype=np.int64),
            score=np.zeros((units, 2), dtype=np.float32),
            peak=np.zeros((units, 2, 2), dtype=np.int64),
            maps=np.zeros((units, 2, 2, 2), dtype=np.float32),
        ),
        iou_threshold=0.04,
        anchors=((7.5, 23.5), (7.5, 23.5)),
        border="hold",
    )


def result_of(*layers: LayerDissection, epoch: int = 3) -> DissectionResult:
    return DissectionResult(
        layers={layer.layer: layer for layer in layers},
        num_images=10,
        settings={"quantile": 0.005, "mask_size": [SIZE, SIZE]},
        seconds=1.25,
        meta={"epoch": epoch, "global_step": 40 * epoch},
    )


HOSTILE = (
    "$\\undefined$",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b||c",
    "tab\tnull\x00bell\x07",
    "\u202egnp.exe\ud800",
    "_underscore_",
    "x" * 500,
    "",
    "Ärmel 袖",
)


def assert_same_counts(result: DissectionResult, other: DissectionResult) -> None:
    """The same images, thresholds and integers, layer by layer."""
    assert list(result.layers) == list(other.layers)
    assert result.num_images == other.num_images
    for name, layer in result.layers.items():
        np.testing.assert_array_equal(layer.thresholds, other[name].thresholds)
        for kind in ("tallies", "chance", "top"):
            mine, its = vars(getattr(layer, kind)), vars(getattr(other[name], kind))
            for field, values in mine.items():
                np.testing.assert_array_equal(values, its[field], err_msg=f"{name}: {kind}.{field}")
