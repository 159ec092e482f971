"""Heat maps of patterns: a mass where the strongest are, none elsewhere."""

import math

import numpy as np
import torch

from lightning_interp.drawing.figures import render
from lightning_interp.methods.graph.figures.heat import heat_map, pattern_heat_map
from lightning_interp.methods.graph.patterns import Inference
from tests.helpers.graphs import IMAGE_SIZE, LAYERS, toy_graph

GRAPH = toy_graph()


def black(index):
    return np.zeros((*IMAGE_SIZE, 3), dtype=np.uint8)


def test_heat_map_against_a_loop():
    points, weights = torch.tensor([[10.0, 50.0], [70.0, 5.5]]), torch.tensor([2.0, 0.5])
    width = 15 / 224 * 64
    expected = np.zeros(IMAGE_SIZE)
    for (x, y), weight in zip(points.tolist(), weights.tolist(), strict=True):
        for row in range(64):
            for column in range(96):
                distance = (row - y) ** 2 + (column - x) ** 2
                expected[row, column] += weight * math.exp(-distance / (2 * width**2))
    np.testing.assert_allclose(heat_map(points, weights, IMAGE_SIZE), expected, rtol=1e-12)


def peak(axes):
    """Column and row of the largest value of the map on top of the picture, and that value."""
    heat = axes.images[1].get_array()
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    return column, row, heat.max()


def test_the_heat_is_where_the_strongest_pattern_is():
    rows = [1, 4]
    figure = pattern_heat_map(GRAPH, GRAPH.learnt_from, black, rows=rows)
    grid = np.array(figure.axes[: 2 * 5]).reshape(2, 5)
    assert [axes.get_title() for axes in grid[0]] == ["image", *LAYERS, "all layers"]
    assert [line[0].get_ylabel() for line in grid] == ["image 2", "image 8"]
    for column, layer in enumerate(LAYERS, 1):
        found = GRAPH.learnt_from[layer]
        # A tenth of so few is one pattern.
        largest = found.score[rows].max()
        for line, row in zip(grid, rows, strict=True):
            best = found.score[row].argmax()
            x, y, value = peak(line[column])
            assert abs(x - found.point[row, best, 0]) <= 0.5
            assert abs(y - found.point[row, best, 1]) <= 0.5
            np.testing.assert_allclose(value, found.score[row, best] / largest, rtol=0.02)


def test_every_layer_counts_the_same_in_all_layers():
    figure = pattern_heat_map(GRAPH, GRAPH.learnt_from, black, rows=[2])
    *layers, together = (axes.images[1].get_array() for axes in figure.axes[1:5])
    np.testing.assert_allclose(together, sum(layers) / 3)


def test_a_pruned_pattern_gives_no_heat():
    best = int(GRAPH.learnt_from[LAYERS[0]].score[2].argmax())
    graph = GRAPH.prune([GRAPH[LAYERS[0]].names()[best]])
    before, after = (peak(pattern_heat_map(g, g.learnt_from, black, rows=[2]).axes[1]) for g in (GRAPH, graph))
    second = GRAPH.learnt_from[LAYERS[0]].score[2].argsort(descending=True)[1]
    points = GRAPH.learnt_from[LAYERS[0]].point[2]
    np.testing.assert_allclose(before[:2], points[best], atol=0.5)
    np.testing.assert_allclose(after[:2], points[second], atol=0.5)


def test_images_without_any_pattern_have_maps_of_zero():
    silent = {
        name: type(each)(each.point, torch.zeros_like(each.score), each.expected)
        for name, each in GRAPH.learnt_from.layers.items()
    }
    inference = Inference(GRAPH.learnt_from.images, GRAPH.learnt_from.mirrored, silent)
    figure = pattern_heat_map(GRAPH, inference, black)
    assert not any(axes.images[1].get_array().any() for axes in figure.axes[1:5])


def test_four_images_spread_over_the_set_by_default():
    figure = pattern_heat_map(GRAPH, GRAPH.learnt_from, black)
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel().startswith("image")]
    assert labels == ["image 0", "image 2", "image 6", "image 8"]
    assert render(figure).shape[2] == 3


def test_one_layer_needs_no_sum():
    graph = toy_graph(layers=1)
    figure = pattern_heat_map(graph, graph.learnt_from, black, rows=[0])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["image", LAYERS[0]]
    assert len(figure.axes) == 3
