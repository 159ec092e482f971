"""Which patterns stand for a graph, and the drawing of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import PathPatch

from lightning_interp.drawing.figures import render
from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.figures.drawing import draw_graph
from lightning_interp.methods.graph.figures.overview import overview
from tests.helpers.graphs import IMAGE_SIZE, LAYERS, toy_graph
from tests.helpers.results import HOSTILE

GRAPH = toy_graph()


def grey(index):
    return np.full((*IMAGE_SIZE, 3), 128, dtype=np.uint8)


def changed(graph, level, **fields):
    layers = list(graph.layers)
    layers[level] = replace(layers[level], **fields)
    return replace(graph, layers=tuple(layers))


def planted():
    """Two layers of which all is known: filters 0 0 2 2 above 0 1 1 3 3 3."""
    graph = toy_graph(layers=2)
    graph = changed(
        graph,
        0,
        score=torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64),
        position=torch.tensor([[90.0, 5], [10, 5], [20, 5], [30, 5]], dtype=torch.float64),
    )
    return changed(
        graph,
        1,
        score=torch.tensor([1.0, 2.0, 3.0, 9.0, 8.0, 7.0], dtype=torch.float64),
        parents=torch.tensor([[0, 2], [0, 1], [1, 2], [1, 3], [3, -1], [1, 3]]),
        weight=torch.tensor(
            [[0.5, 0.5], [0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [1.0, 0], [0.4, 0.6]], dtype=torch.float64
        ),
    )


def test_the_strongest_that_hang_together_by_hand():
    view = overview(planted(), most=2)
    # On the patterns above hang .5 + 1.8 = 2.3, .2 + 2.7 + 4.5 + 2.8 = 10.2, .8 and 4.5 + 8 + 4.2 = 16.7: pattern 1
    # is the best of filter 0, and left of pattern 3, the best of filter 2.
    assert view.rows[0] == [1, 3]
    # Score times shown weight: 0, .2, 2.7, 9, 8, 7. Pattern 2 is the best of filter 1, and its shown parent is on the
    # left; pattern 3 is the best of filter 3, and its parents are at both places.
    assert view.rows[1] == [2, 3]
    assert [tuple(edge) for edge in view.edges] == [(1, 0, 0, 0.9), (1, 1, 0, 0.5), (1, 1, 1, 0.5)]


def test_patterns_without_a_shown_parent_fill_the_row():
    view = overview(planted(), most=3)
    assert set(view.rows[1]) == {0, 2, 3}
    assert not [edge for edge in view.edges if view.rows[1][edge.child] == 0]


def test_without_edges_the_scores_decide():
    assert set(overview(toy_graph(layers=1), most=1).rows[0]) == {toy_graph(layers=1).rank()[0].row}


def test_pruned_patterns_are_left_out():
    graph = planted().prune([f"{LAYERS[0]}/2/1", f"{LAYERS[1]}/3/0"])
    view = overview(graph, most=9)
    assert set(view.rows[0]) == {1, 2}
    # Of filter 3 now pattern 5: it hangs on pattern 1 by .4, pattern 4 on none that is left.
    assert set(view.rows[1]) == {0, 2, 5}


def curves(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]


def test_edges_are_drawn_between_their_patterns_by_weight():
    figure = draw_graph(planted(), grey, most=2)
    widths = sorted(patch.get_linewidth() for patch in curves(figure))
    assert widths == pytest.approx([0.5 + 7 * weight for weight in (0.5, 0.5, 0.9)])
    icons = [image.get_extent() for image in figure.axes[0].images]
    assert len(icons) == 4
    middles = {round((left + right) / 2, 6) for left, right, *_ in icons}
    for patch in curves(figure):
        (start, *_, end) = patch.get_path().vertices
        assert round(start[0], 6) in middles
        assert round(end[0], 6) in middles
        assert any(bottom < start[1] < bottom + 0.3 for *_, bottom, _ in icons)
        assert any(abs(top - end[1]) < 1e-9 for *_, top in icons)


def test_nothing_overlaps():
    figure = draw_graph(GRAPH, grey)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts] + [image.get_window_extent() for image in axes.images]
    for i, one in enumerate(boxes):
        assert one.x0 >= 0
        assert one.x1 <= figure.bbox.width
        assert one.y0 >= 0
        assert one.y1 <= figure.bbox.height
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])
    # Edges keep to the rooms between rows.
    for patch in curves(figure):
        edge = patch.get_path().transformed(axes.transData).get_extents()
        assert not [box for box in boxes if box.overlaps(edge.padded(-0.5))], edge


def test_counts_beside_the_rows():
    texts = [text.get_text() for text in draw_graph(GRAPH, grey).axes[0].texts]
    assert LAYERS[1] in texts
    assert "2 of 4 patterns" in texts
    below = len([edge for edge in overview(GRAPH).edges if edge.level == 1])
    assert f"3 of 6 patterns\n{below} of 11 edges" in texts


def test_hostile_names_are_drawn_as_text():
    graph = toy_graph(layers=1)
    found = graph.learnt_from.layers[LAYERS[0]]
    for name in (*HOSTILE, "$\\frac{"):
        inference = replace(graph.learnt_from, layers={name: found})
        hostile = replace(changed(graph, 0, layer=name), learnt_from=inference)
        assert render(draw_graph(hostile, grey)).shape[2] == 3


def test_a_graph_without_positions_says_so():
    with pytest.raises(DatasetError, match="does not hold where its patterns are"):
        draw_graph(toy_graph(learnt=False), grey)
