"""Whether patterns are steady, move as the parts of an object move, and lie on them; raw filters and controls beside.

Location instability and purity are those of Zhang, Cao, Shi, Wu and Zhu (AAAI 2018) and Zhang, Wu and Zhu (CVPR 2018).
The controls are this project's own: a constant point is steadier than most filters, and what a pattern owes to its
position prior is seen only beside the same pattern held still.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_interp.functional.location import LocationScores, point_scores
from lightning_interp.functional.part_overlap import PartPurity, cell_purity
from lightning_interp.functional.peaks import Peaks, cell_points, peak_points
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.patterns import Inference, LayerPatterns, PatternGraph, PatternLayer


@dataclass(frozen=True)
class PlaceScores:
    """How one way of placing V patterns in images does: means over those that have a score, NaN where none has.

    Args:
        instability: Location instability in image diagonals, all patterns on the 100 best images that show the
            landmark (CVPR 2018).
        instability_aaai2018: The same of the 167 strongest patterns on their 20 best images.
        correlation: Of displacements, with the landmark of the largest one; images as for ``instability``.
        correlation_chance: The largest with landmarks of other images.
        r2: R^2 of displacements, landmark as for ``correlation``.
        beats_centre: Share of patterns that are steadier than the centre of the image.
        beats_frozen: Share of patterns that are steadier than the same patterns held at their mean positions.
        purity: Share of a pattern's 100 best images where it lies on the part it lies on most.
        purity_area: Share of the cells that the part covers there.
        purity_best_constant: Purity of the best cell for that part on the same images.
        scored: Patterns that have an instability.
    """

    instability: float
    instability_aaai2018: float
    correlation: float
    correlation_chance: float
    r2: float
    beats_centre: float
    beats_frozen: float
    purity: float
    purity_area: float
    purity_best_constant: float
    scored: int


@dataclass(frozen=True)
class LayerEvaluation:
    """The patterns of a layer, what they are made of and what they are to be compared with.

    All but ``raw`` are judged on the same images: those of the patterns' highest scores.

    Args:
        raw: The layer's filters, each at its peak (Zhou et al., ICLR 2015), on their own best images.
        raw_same: For each pattern its filter at its peak, on the images that the pattern is judged on: those where the
            filter responds near by, which is what patterns have over filters that are judged on all images.
        patterns: The patterns as inferred; pruned ones are left out.
        frozen: Each pattern at its mean position.
        expected: Each pattern where its parents and the pose expect it, without a look at its filter.
        centre: All patterns at the centre of the image.
        random: Each at cells drawn uniformly, with a fixed seed.
    """

    raw: PlaceScores
    raw_same: PlaceScores
    patterns: PlaceScores
    frozen: PlaceScores
    expected: PlaceScores
    centre: PlaceScores
    random: PlaceScores

    def scalars(self) -> dict[str, float]:
        """``instability`` and the like of the patterns, ``instability_raw`` and the like of the others."""
        return {
            column.name if row.name == "patterns" else f"{column.name}_{row.name}": getattr(
                getattr(self, row.name), column.name
            )
            for column in fields(PlaceScores)
            for row in fields(self)
        }


@dataclass(frozen=True)
class GraphEvaluation:
    """An explanatory graph's figures by layer.

    Args:
        layers: By module path, top first.
    """

    layers: Mapping[str, LayerEvaluation]

    def __getitem__(self, layer: str) -> LayerEvaluation:
        """The layer of that name."""
        return self.layers[layer]

    def scalars(self) -> dict[str, float]:
        """Every figure as ``<layer>/<quantity>``."""
        return {f"{name}/{key}": value for name, each in self.layers.items() for key, value in each.scalars().items()}


def evaluate_graph(
    graph: PatternGraph,
    inference: Inference,
    landmarks: Tensor,
    peaks: Mapping[str, Peaks],
    covered: Mapping[str, Tensor] | None = None,
) -> GraphEvaluation:
    """Evaluate every layer of a graph.

    An image where a pattern's score is 0 does not count for it. Points in a mirrored image are mirrored back, so that
    all is compared in the image as it is; the frozen pattern is held still before that, for it may know the pose.

    Args:
        graph: The graph.
        inference: Where its patterns are in N images.
        landmarks: ``(N, K, 2)`` float64, x and y in pixels of the same images in their order; NaN where absent.
        peaks: By layer, peaks of all filters of the layer on the same images.
        covered: By layer, ``(N, K', h * w)`` bool, cells that each part covers
            (:func:`~lightning_interp.functional.part_overlap.covered_cells`); None without boxes or masks of parts.

    Raises:
        ValueError: If the numbers of images differ.
    """
    found = {}
    for layer in graph.layers:
        kept = graph.kept(layer.layer).nonzero()[:, 0]
        score, places = _places(layer, inference[layer.layer], inference.mirrored, kept)
        cells = None if covered is None else covered[layer.layer]
        own = peaks[layer.layer]
        at_peaks = peak_points(own.cell, layer.grid)
        places["raw_same"] = at_peaks[:, layer.filter[kept]]
        rows = evaluate_places(places, score, landmarks, layer.grid, cells)
        raw = evaluate_points(at_peaks, own.value, landmarks, layer.grid, cells)
        found[layer.layer] = LayerEvaluation(raw=raw, **rows)
    return GraphEvaluation(found)


def evaluate_points(
    points: Tensor, score: Tensor, landmarks: Tensor, grid: Grid, covered: Tensor | None = None
) -> PlaceScores:
    """Evaluate points of anything: raw filters, or the parts that another method found.

    Args:
        points: ``(N, V, 2)`` floating point, x and y in pixels of N images; NaN where there is none.
        score: ``(N, V)``, by which the images are ranked; what is never above 0 is left out as dead.
        landmarks: See :func:`evaluate_graph`.
        grid: Cells of the image.
        covered: ``(N, K', h * w)`` bool, cells that each part covers.

    Raises:
        ValueError: If the numbers of images differ.
    """
    return evaluate_places({"own": points, "frozen": _hold(points)}, score, landmarks, grid, covered)["own"]


def evaluate_places(
    places: Mapping[str, Tensor], score: Tensor, landmarks: Tensor, grid: Grid, covered: Tensor | None = None
) -> dict[str, PlaceScores]:
    """Evaluate several ways of placing the same V patterns, on the same images: those of their highest scores.

    Args:
        places: By name, ``(N, V, 2)`` floating point, ``"frozen"`` among them. An image where the first of them is NaN
            does not count.
        score: See :func:`evaluate_points`, as for what follows.
        landmarks: In pixels of the same images.
        grid: Cells of the image.
        covered: Cells that each part covers.

    Raises:
        ValueError: If the numbers of images differ.
    """
    points = list(places.values())
    located = [point_scores(points, score, landmarks, grid, variant=v) for v in ("cvpr2018", "aaai2018")]
    pure: list[PartPurity] | list[None] = [None] * len(points)
    if covered is not None:
        pure = cell_purity([_cells(each, grid) for each in points], score, covered, covered.any(2))
    frozen = located[0][list(places).index("frozen")].by_filter().filter
    return {
        name: _scores(cvpr, aaai, frozen, purity)
        for name, cvpr, aaai, purity in zip(places, *located, pure, strict=True)
    }


def _scores(cvpr: LocationScores, aaai: LocationScores, frozen: Tensor, purity: PartPurity | None) -> PlaceScores:
    figures, own = cvpr.summary(), cvpr.by_filter().filter
    scored = ~own.isnan()
    on_part = {} if purity is None else purity.summary()
    return PlaceScores(
        instability=figures["instability"],
        instability_aaai2018=aaai.summary()["instability"],
        correlation=figures["correlation"],
        correlation_chance=figures["correlation_chance"],
        r2=figures["r2"],
        beats_centre=figures["beats_centre"],
        beats_frozen=float((own < frozen)[scored].double().mean()),
        purity=on_part.get("purity", math.nan),
        purity_area=on_part.get("area", math.nan),
        purity_best_constant=on_part.get("best_constant", math.nan),
        scored=int(scored.sum()),
    )


def _places(
    layer: PatternLayer, found: LayerPatterns, mirrored: Tensor, kept: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores, and points in the images as they are, by row, of the patterns to be judged."""
    score = found.score[:, kept]
    points = found.point[:, kept].masked_fill((score <= 0)[..., None], math.nan)
    size = layer.grid.columns.size
    # One seed for every layer and call: figures of the same graph are the same figures.
    drawn = torch.randint(
        layer.grid.rows.length * layer.grid.columns.length, score.shape, generator=torch.Generator().manual_seed(0)
    )
    centre = torch.tensor([size - 1, layer.grid.rows.size - 1]) / 2
    return score, {
        "patterns": _mirror_back(points, mirrored, size),
        "frozen": _mirror_back(_hold(points), mirrored, size),
        "expected": _mirror_back(found.expected[:, kept], mirrored, size),
        "centre": centre.expand(points.shape),
        "random": cell_points(layer.grid).to(points.dtype)[drawn],
    }


def _hold(points: Tensor) -> Tensor:
    """``(N, V, 2)``, every pattern at its mean position over the images where it is found."""
    # In float64, so that equal points have a mean equal to them.
    return points.double().nanmean(0).to(points.dtype).expand_as(points)


def _mirror_back(points: Tensor, mirrored: Tensor, width: int) -> Tensor:
    x = torch.where(mirrored[:, None], width - 1 - points[..., 0], points[..., 0])
    return torch.stack([x, points[..., 1]], 2)


def _cells(points: Tensor, grid: Grid) -> Tensor:
    """``(N, V)`` int64, the cell next to each point, row-major; -1 where there is none."""

    def nearest(axis: Axis, along: Tensor) -> Tensor:
        return ((along - axis.first) / axis.step).round().clamp(0, axis.length - 1).nan_to_num(nan=0).long()

    x, y = points.unbind(2)
    cell = nearest(grid.rows, y) * grid.columns.length + nearest(grid.columns, x)
    return cell.masked_fill(points.isnan().any(2), -1)
