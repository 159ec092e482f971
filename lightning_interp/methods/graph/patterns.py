"""What an explanatory graph is: part patterns of filters, edges between layers, and where patterns are in images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.functional.upsampling import Grid


@dataclass(frozen=True)
class PatternLayer:
    """The part patterns (nodes) of one layer; V of them, M parents each, C filters. Pixels are those of the image.

    Args:
        layer: Module path.
        filter: ``(V,)`` int64, the filter that the pattern belongs to.
        position: ``(V, 2)`` float64, mu: x and y in pixels, whole numbers being centres of pixels.
        width: ``(V,)`` float64, standard deviation of the pattern's prior along either axis, in pixels; with parents
            that of the product of what they say, s_V.
        spread: ``(V,)`` float64, standard deviation with which the pattern, as a parent, tells where others are.
        score: ``(V,)`` float64, mean score over the images that it was learnt from, over the mean of the layer.
        parents: ``(V, M)`` int64, rows of patterns in the layer above; -1 where there is none.
        weight: ``(V, M)`` float64, share of each parent in the predicted displacement, 0 where there is none; a row
            sums to 1 unless it has no parents.
        sway: ``(V, 2, K)`` float64, how far the pattern moves, in pixels, by unit of each of the K pose numbers of an
            image; K is 0 where no pose was learnt.
        scale: ``(C,)`` float64, what the filter's response is divided by; infinite for filters without nodes.
        grid: Where the map's values lie on the image.
    """

    layer: str
    filter: Tensor
    position: Tensor
    width: Tensor
    spread: Tensor
    score: Tensor
    parents: Tensor
    weight: Tensor
    sway: Tensor
    scale: Tensor
    grid: Grid

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.filter)

    def names(self) -> list[str]:
        """``layer/filter/number`` of every pattern, numbers counting from 0 within a filter."""
        seen: dict[int, int] = {}
        found = []
        for each in self.filter.tolist():
            found.append(f"{self.layer}/{each}/{seen.setdefault(each, 0)}")
            seen[each] += 1
        return found

    def offset(self, above: "PatternLayer") -> Tensor:
        """``(V, M, 2)`` float64, mu_V - mu_V' of each edge in pixels; NaN where there is no parent."""
        offset = self.position[:, None] - above.position[self.parents.clamp(min=0)]
        return offset.masked_fill((self.parents < 0)[..., None], torch.nan)


@dataclass(frozen=True)
class LayerPatterns:
    """Where the patterns of a layer are in N images.

    Args:
        point: ``(N, V, 2)`` float32, x and y of the unit that the pattern takes, in pixels.
        score: ``(N, V)`` float32, S = F(x) P(x | V, parents) at that unit; 0 where the filter is silent.
        expected: ``(N, V, 2)`` float32, where the parents and the pose expect it: mu_V + Delta_V.
    """

    point: Tensor
    score: Tensor
    expected: Tensor


@dataclass(frozen=True)
class Inference:
    """Where the patterns of a graph are in N images.

    Args:
        images: ``(N,)`` int64, their indices in the probe set.
        mirrored: ``(N,)`` bool, images whose mirror image fits the graph better; their points are those of the mirror
            image.
        layers: By module path, top first.
    """

    images: Tensor
    mirrored: Tensor
    layers: Mapping[str, LayerPatterns]

    def __getitem__(self, layer: str) -> LayerPatterns:
        """The patterns of the layer of that name."""
        return self.layers[layer]

    def upright(self, layer: str, width: int) -> Tensor:
        """``(N, V, 2)`` float32, points of a layer in the images as they are, of so many pixels in width."""
        point = self.layers[layer].point.clone()
        point[self.mirrored, :, 0] = width - 1 - point[self.mirrored, :, 0]
        return point


@dataclass(frozen=True, repr=False)
class PatternGraph:
    """Part patterns of some layers and edges between them (Zhang et al., AAAI 2018): the plain data of a graph.

    Args:
        layers: Top layer first; the parents of a layer's patterns are in the layer before it, the first has none.
        image_size: ``(H, W)`` of the images in pixels.
        learnt_from: Where the patterns are in the images that the graph was learnt from; None if they were not kept.
        edits: Names of patterns, one tuple an edit by hand, oldest first: an edit takes out those of its patterns that
            were in, and puts back those that were out
            (:mod:`~lightning_interp.methods.graph.maths.editing`).
        settings: The options that produced it, JSON-able.
        seconds: Wall time of the learning.
        meta: When it was made: ``epoch``, ``global_step``, ``category`` and the like.
    """

    layers: tuple[PatternLayer, ...]
    image_size: tuple[int, int]
    learnt_from: Inference | None = None
    edits: tuple[tuple[str, ...], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> PatternLayer:
        """The layer of that name."""
        for each in self.layers:
            if each.layer == layer:
                return each
        raise DatasetError(f"no layer '{layer}' in this graph; it has {', '.join(each.layer for each in self.layers)}")

    def about(self) -> str:
        """Layers and numbers."""
        layers = ", ".join(f"{each.layer}: {len(each)} patterns" for each in self.layers)
        height, width = self.image_size
        images = (
            f"{len(self.learnt_from.images)} images" if self.learnt_from is not None else "images that were not kept"
        )
        return f"{layers}; {height} x {width} pixels; learnt from {images}; {len(self.pruned)} pruned"

    def __repr__(self) -> str:
        """One line: the arrays would fill pages."""
        return f"{type(self).__name__}({self.about()})"

    @property
    def names(self) -> Sequence[str]:
        """Module paths, top layer first."""
        return tuple(each.layer for each in self.layers)

    @cached_property
    def pruned(self) -> tuple[str, ...]:
        """Names of patterns that are out, in the order in which they were taken out.

        They stay in the layers, and are inferred as parents, but are left out wherever patterns are ranked, shown or
        vote for a part.
        """
        out: dict[str, None] = {}
        for edit in self.edits:
            back = [name for name in edit if name in out]
            out |= dict.fromkeys(edit)
            for name in back:
                del out[name]
        return tuple(out)

    def kept(self, layer: str) -> Tensor:
        """``(V,)`` bool, patterns of a layer that were not pruned."""
        gone = set(self.pruned)
        return torch.tensor([name not in gone for name in self[layer].names()], dtype=torch.bool)
