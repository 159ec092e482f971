"""The patterns of one layer as tensors of filters by patterns, and what they expect of images."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.functional.upsampling import Grid
from lightning_interp.methods.graph.maths.edges import Above, Parents, predict
from lightning_interp.methods.graph.maths.mixture import Patterns, Units
from lightning_interp.methods.graph.maths.pose import swayed
from lightning_interp.methods.graph.patterns import PatternLayer


def side(grid: Grid) -> float:
    """sqrt(H * W) of the image in pixels, the graph's unit of length."""
    return math.sqrt(grid.rows.size * grid.columns.size)


def units_of(grid: Grid, like: Tensor, window: float | None) -> Units:
    """Where the units of a layer are, relative to sqrt(H * W), with the type and device of ``like``."""
    x, y = (torch.tensor(axis.anchors, dtype=torch.float64) / side(grid) for axis in (grid.columns, grid.rows))
    return Units(x.to(like), y.to(like), math.inf if window is None else window)


class Nodes(NamedTuple):
    """The patterns of a layer: P of each of C filters; lengths are relative to sqrt(H * W).

    Attributes:
        filter: ``(C,)`` int64, the filters that have patterns.
        scale: ``(C,)``, what their responses are divided by.
        position: ``(C, P, 2)``, mu.
        width: ``(C, P)``, s of the prior.
        spread: ``(C, P)``, sigma as a parent.
        sway: ``(C, P, 2, K)`` float64, displacement by pose.
        parents: In the layer above; None without any.
    """

    filter: Tensor
    scale: Tensor
    position: Tensor
    width: Tensor
    spread: Tensor
    sway: Tensor
    parents: Parents | None = None

    @classmethod
    def of(cls, layer: PatternLayer, like: Tensor) -> "Nodes":
        """From a result, with the type and device of ``like``.

        Raises:
            DatasetError: If the filters have not the same number of patterns each, or some patterns have parents and
                others none.
        """
        filters, counts = torch.unique_consecutive(layer.filter, return_counts=True)
        if len(counts.unique()) != 1 or len(filters) != len(filters.unique()):
            raise DatasetError(f"layer '{layer.layer}': its filters have not the same number of patterns each, in turn")
        shape, size = (len(filters), int(counts[0])), side(layer.grid)
        parents, led = None, (layer.parents >= 0).any(1)
        if led.any():
            if not led.all():
                alone = layer.names()[int(led.int().argmin())]
                raise DatasetError(f"layer '{layer.layer}': '{alone}' has no parents, but others have")
            parents = Parents(layer.parents.to(like.device), layer.weight.to(like.device))
        return cls(
            filter=filters.to(like.device),
            scale=layer.scale[filters].to(like),
            position=(layer.position / size).view(*shape, 2).to(like),
            width=(layer.width / size).view(shape).to(like),
            spread=(layer.spread / size).view(shape).to(like),
            sway=(layer.sway / size).view(*shape, 2, layer.sway.shape[2]).to(like.device),
            parents=parents,
        )

    def result(self, name: str, num_filters: int, score: Tensor, grid: Grid) -> PatternLayer:
        """As a result, on the CPU; ``score`` is ``(C, P)``."""
        size, count = side(grid), self.width.numel()
        scale = torch.full((num_filters,), math.inf, dtype=torch.float64)
        scale[self.filter.cpu()] = self.scale.double().cpu()
        nobody = torch.empty(count, 0)
        return PatternLayer(
            layer=name,
            filter=self.filter.cpu().repeat_interleave(self.width.shape[1]),
            position=self.position.double().cpu().view(-1, 2) * size,
            width=self.width.double().cpu().flatten() * size,
            spread=self.spread.double().cpu().flatten() * size,
            score=score.double().cpu().flatten(),
            parents=nobody.long() if self.parents is None else self.parents.row.cpu(),
            weight=nobody.double() if self.parents is None else self.parents.weight.double().cpu(),
            sway=self.sway.double().cpu().flatten(0, 1) * size,
            scale=scale,
            grid=grid,
        )

    def response(self, maps: Tensor) -> Tensor:
        """F(x) of the filters that have patterns: ``(N, C, h, w)``, from the maps of all filters of the layer."""
        # The index makes a copy, so that it may be changed in place.
        return maps[:, self.filter].clamp_(min=0).div_(self.scale[:, None, None])

    def expect(self, num_images: int, pose: Tensor | None = None, above: Above | None = None) -> Patterns:
        """What is expected of N images: from the patterns above, else from the pose ``(N, K)``, else the mean."""
        shape = num_images, *self.width.shape
        width, level = self.width, torch.zeros(shape).to(self.width)
        if self.parents is not None and above is not None:
            told = predict(self.parents, above)
            shift, width = told.shift.view(*shape, 2).to(level), told.width.view(shape[1:]).to(level)
            level = told.level.view(shape).to(level)
        elif pose is not None:
            shift = swayed(self.sway, pose).to(level)
        else:
            shift = torch.zeros(*shape, 2).to(level)
        return Patterns(self.position, width, shift, level)
