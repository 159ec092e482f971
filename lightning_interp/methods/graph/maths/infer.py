"""Where the patterns of a graph are in images: the top layer first, then down along the edges."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.errors import DatasetError
from lightning_interp.functional.peaks import cell_points
from lightning_interp.functional.upsampling import Grid
from lightning_interp.methods.graph.maths.chunks import BYTE_BUDGET, explain_all, take_all
from lightning_interp.methods.graph.maths.edges import Above
from lightning_interp.methods.graph.maths.layer import Nodes, side, units_of
from lightning_interp.methods.graph.maths.mixture import Patterns, Units
from lightning_interp.methods.graph.maths.pose import pose_of
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.patterns import Inference, LayerPatterns, PatternGraph

# Rounds of E-step and pose, from the mean pose.
_ROUNDS = 10


class LayerMaps(NamedTuple):
    """The maps of a layer for N images.

    Attributes:
        layer: Module path.
        maps: ``(N, C, h, w)`` float; what is below 0 counts as 0.
        mirrored: The same for the mirror images; None where these are not asked for.
        grid: Where the values lie on the image.
    """

    layer: str
    maps: Tensor
    mirrored: Tensor | None
    grid: Grid

    def facing(self, flip: Tensor) -> "LayerMaps":
        """Of each image the maps of its mirror image where ``flip`` ``(N,)`` says so."""
        if self.mirrored is None:
            return self
        turned = flip.to(self.maps.device)[:, None, None, None]
        return self._replace(maps=torch.where(turned, self.mirrored, self.maps), mirrored=None)


class Posed(NamedTuple):
    """Pose ``(N, K)`` float64 of images, and ``(N,)`` float64, the likelihood of the maps with it."""

    pose: Tensor
    likelihood: Tensor


def find_pose(nodes: Nodes, response: Tensor, units: Units, tau: float, byte_budget: int) -> Posed:
    """The pose of each image, from the mean pose on.

    Args:
        nodes: The top layer.
        response: ``(N, C, h, w)``, F(x).
        units: Where the units are.
        tau: Density of V_none.
        byte_budget: Bytes for intermediate values.
    """
    pose = torch.zeros(len(response), nodes.sway.shape[3], dtype=torch.float64, device=response.device)
    for _ in range(_ROUNDS if pose.shape[1] else 0):
        patterns = nodes.expect(len(response), pose)
        found = explain_all(response, patterns, units, tau, byte_budget)
        pull = found.first + found.mass[..., None] * patterns.shift
        pose = pose_of(found.mass, pull, nodes.width, nodes.sway)
    found = explain_all(response, nodes.expect(len(response), pose), units, tau, byte_budget)
    return Posed(pose, found.likelihood - pose.square().sum(1) / 2)


class Located(NamedTuple):
    """The patterns of a layer in N images, on the device of the maps; lengths are relative to sqrt(H * W).

    Attributes:
        point: ``(N, V, 2)`` float64.
        score: ``(N, V)``.
        expected: ``(N, V, 2)`` float64.
    """

    point: Tensor
    score: Tensor
    expected: Tensor

    def above(self, nodes: Nodes) -> Above:
        """What these patterns tell those of the layer below."""
        return Above(self.point - nodes.position.double().view(-1, 2), nodes.spread.flatten())


def locate(
    nodes: Nodes, patterns: Patterns, response: Tensor, grid: Grid, options: GraphOptions, byte_budget: int
) -> Located:
    """The unit that each pattern of a layer takes."""
    height, width = response.shape[2:]
    units = units_of(grid, response, options.window)
    background = options.background / (height * width)
    if options.deformation is not None:
        patterns = patterns._replace(width=patterns.width.clamp(max=options.deformation))
    taken = take_all(response, patterns, units, background, byte_budget)
    points = (cell_points(grid) / side(grid)).to(response.device)[taken.cell.flatten(1)]
    return Located(points, taken.score.flatten(1), (patterns.position + patterns.shift).double().flatten(1, 2))


def infer(
    graph: PatternGraph, layers: Sequence[LayerMaps], images: Tensor, *, byte_budget: int = BYTE_BUDGET
) -> Inference:
    """Find every pattern in every image: argmax of (F(x) + b) P(p_x | V, R), the top layer first.

    The pose of an image, where the graph has one, is the likeliest given its own maps, and so is the choice between an
    image and its mirror image, where the graph was learnt so.

    Args:
        graph: The graph.
        layers: The maps of its layers, in its order.
        images: ``(N,)`` int64, indices of the images.
        byte_budget: Bytes for intermediate values.

    Returns:
        Where they are; of an image whose mirror image was taken, the points are those of the mirror image.

    Raises:
        DatasetError: If the maps are not those of the graph's layers, or those of its filters not finite.
    """
    check_maps(graph, layers)
    options = GraphOptions(**graph.settings["options"])
    flip = torch.zeros(len(images), dtype=torch.bool)
    above: Above | None = None
    pose: Tensor | None = None
    found: dict[str, LayerPatterns] = {}
    for layer, own in zip(graph.layers, layers, strict=True):
        nodes = Nodes.of(layer, own.maps)
        if above is None:
            units = units_of(layer.grid, own.maps, options.window)
            pose, straight = find_pose(nodes, nodes.response(own.maps), units, options.tau, byte_budget)
            if own.mirrored is not None:
                other = find_pose(nodes, nodes.response(own.mirrored), units, options.tau, byte_budget)
                turned = other.likelihood > straight
                pose, flip = torch.where(turned[:, None], other.pose, pose), turned.cpu()
        response = nodes.response(own.facing(flip).maps)
        seen = locate(nodes, nodes.expect(len(images), pose, above), response, layer.grid, options, byte_budget)
        above = seen.above(nodes)
        found[layer.layer] = _in_pixels(seen, layer.grid)
    return Inference(images, flip, found)


def _in_pixels(seen: Located, grid: Grid) -> LayerPatterns:
    point, expected = ((each.cpu() * side(grid)).float() for each in (seen.point, seen.expected))
    return LayerPatterns(point, seen.score.float().cpu(), expected)


def join(parts: Sequence[Inference]) -> Inference:
    """Inferences on different images, as one; ordered by the images' indices."""
    images = torch.cat([part.images for part in parts])
    order = images.argsort(stable=True)
    layers = {}
    for name in parts[0].layers:
        fields = zip(*((each.point, each.score, each.expected) for each in (part[name] for part in parts)), strict=True)
        layers[name] = LayerPatterns(*(torch.cat(values)[order] for values in fields))
    return Inference(images[order], torch.cat([part.mirrored for part in parts])[order], layers)


def check_maps(graph: PatternGraph, layers: Sequence[LayerMaps]) -> None:
    """Raise a ``DatasetError`` unless the maps are those of the graph's layers, in its order, and finite."""
    names = [each.layer for each in layers]
    if names != list(graph.names):
        raise DatasetError(f"maps of the layers {names}, but the graph is of {list(graph.names)}, in this order")
    for layer, own in zip(graph.layers, layers, strict=True):
        shape = len(layer.scale), layer.grid.rows.length, layer.grid.columns.length
        if tuple(own.maps.shape[1:]) != shape:
            raise DatasetError(
                f"layer '{layer.layer}': maps {tuple(own.maps.shape[1:])} (C, h, w), but the graph was learnt from "
                f"{shape}: it is of another network, or of images of another size "
                f"({graph.image_size[0]} x {graph.image_size[1]} pixels)"
            )
        used = layer.scale.isfinite().to(own.maps.device)
        for maps in (own.maps, own.mirrored):
            if maps is not None and not (maps.isfinite().all((0, 2, 3)) | ~used).all():
                raise DatasetError(f"layer '{layer.layer}' gives NaN or infinite activations, in which no pattern is")
