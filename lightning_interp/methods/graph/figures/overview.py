"""Which few patterns and edges stand for a graph of thousands, and in which order they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.methods.graph.maths.editing import rank
from lightning_interp.methods.graph.patterns import PatternGraph, PatternLayer


class OverviewEdge(NamedTuple):
    """An edge between two patterns that are shown.

    Args:
        level: Layer of the child, 1 being the one below the top.
        child: Its place in the row, counted from the left.
        parent: Place of the parent in the row above.
        weight: The edge's weight.
    """

    level: int
    child: int
    parent: int
    weight: float


@dataclass(frozen=True)
class Overview:
    """The patterns of each layer that are shown, and the edges between them.

    Args:
        rows: By layer, top first, the patterns' rows in the layer, from left to right.
        edges: All edges between them.
    """

    rows: list[list[int]]
    edges: list[OverviewEdge]


def overview(graph: PatternGraph, most: int = 9) -> Overview:
    """Choose strong patterns that hang together, each filter once a layer; pruned ones never.

    The top row has the patterns that most hangs on: the highest sums, over their children, of score times weight. A
    row below has the highest products of a pattern's score and the share of its displacement that parents in the row
    above predict. Where nothing hangs together the scores alone decide. The top row is ordered by where its patterns
    lie in the image, the others by the mean place of their parents, which keeps edges short.

    Args:
        graph: The graph.
        most: Patterns a row.
    """
    rows: list[list[int]] = []
    edges: list[OverviewEdge] = []
    for level, layer in enumerate(graph.layers):
        order = [pattern.row for pattern in rank(graph, layer.layer)]
        links = _links(layer, rows[-1] if level else [])
        if level:
            value = [score * sum(each.values()) for score, each in zip(layer.score.tolist(), links, strict=True)]
        else:
            value = _hanging_on(graph).tolist()
        # The sort is stable: equal ones stay in the order of their scores.
        chosen = each_filter_once(sorted(order, key=lambda row: -value[row]), layer)[:most]
        # Those without parents by where they are in the image, over the same range.
        across = (len(rows[-1]) if level else 1) / graph.image_size[1]
        place = {
            row: _mean_slot(links[row]) if links[row] else float(layer.position[row, 0]) * across for row in chosen
        }
        rows.append(sorted(chosen, key=place.__getitem__))
        edges += [
            OverviewEdge(level, slot, parent, weight)
            for slot, row in enumerate(rows[-1])
            for parent, weight in links[row].items()
        ]
    return Overview(rows, edges)


def each_filter_once(ranked: Sequence[int], layer: PatternLayer) -> list[int]:
    """Of some patterns of a layer, best first, the best of each filter."""
    first: dict[int, int] = {}
    filters = layer.filter.tolist()
    for row in ranked:
        first.setdefault(filters[row], row)
    return list(first.values())


def _hanging_on(graph: PatternGraph) -> Tensor:
    """``(V,)`` float64, for the patterns of the top layer the sum of score times weight over their children."""
    total = torch.zeros(len(graph.layers[0]), dtype=torch.float64)
    for below in graph.layers[1:2]:
        share = (below.score[:, None] * below.weight)[below.parents >= 0]
        total.index_add_(0, below.parents[below.parents >= 0], share)
    return total


def _links(layer: PatternLayer, above: list[int]) -> list[dict[int, float]]:
    """For each pattern, by place in the row above, the weights of its parents that are shown."""
    slots = {row: slot for slot, row in enumerate(above)}
    return [
        {slots[parent]: share for parent, share in zip(*pair, strict=True) if parent in slots and share > 0}
        for pair in zip(layer.parents.tolist(), layer.weight.tolist(), strict=True)
    ]


def _mean_slot(links: dict[int, float]) -> float:
    return sum(slot * weight for slot, weight in links.items()) / sum(links.values())
