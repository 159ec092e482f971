"""Patches of part patterns: cut where the pattern is, whole at the border, of the mirror image where that fitted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.figures.patches import (
    best_sights,
    cut_patch,
    node_patches,
    patch_box,
    picture_of_row,
)
from tests.helpers.graphs import IMAGE_SIZE, LAYERS, toy_graph

GRAPH = toy_graph()
HEIGHT, WIDTH = IMAGE_SIZE
GREY = (228, 230, 234)


def coordinates(index):
    """A picture that tells where a pixel was: column in red, row in green, image in blue."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns, rows, np.full_like(rows, 10 * index)], 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("point", "box"),
    [
        ((111.5, 111.5), (77, 77, 70)),
        ((34.5, 188.5), (0, 154, 70)),
        ((0, 223), (0, 154, 70)),
        ((300, -5), (154, 0, 70)),
    ],
)
def test_patches_are_whole_at_the_border(point, box):
    assert patch_box(*point, (224, 224)) == box


def test_the_shorter_side_sets_the_size_of_a_patch():
    assert patch_box(0, 0, (448, 224))[2] == patch_box(0, 0, (224, 448))[2] == 70
    assert patch_box(1000, 1000, (448, 224))[:2] == (154, 378)


def test_a_patch_is_cut_around_its_point():
    # 20 pixels of a side of 64, so that pixels of patch and picture agree.
    patch = np.asarray(cut_patch(coordinates(3), 49.5, 29.5, IMAGE_SIZE, 20))
    np.testing.assert_array_equal(patch, coordinates(3)[20:40, 40:60])


def test_a_patch_of_a_picture_at_twice_the_resolution_shows_the_same():
    large = coordinates(3).repeat(2, 0).repeat(2, 1)
    patch = np.asarray(cut_patch(large, 49.5, 29.5, IMAGE_SIZE, 40))
    np.testing.assert_allclose(patch, coordinates(3)[20:40, 40:60].repeat(2, 0).repeat(2, 1), atol=1)


def test_best_sights_against_a_loop():
    inference = GRAPH.learnt_from
    for layer in LAYERS:
        found = inference[layer]
        every = range(found.score.shape[1])
        for pattern, sights in zip(every, best_sights(inference, layer, every, 4), strict=True):
            heard = [row for row in range(6) if found.score[row, pattern] > 0]
            rows = sorted(heard, key=lambda row: -found.score[row, pattern])[:4]
            assert [sight.row for sight in sights] == rows
            assert [(s.x, s.y) for s in sights] == [tuple(found.point[row, pattern].tolist()) for row in rows]


def test_a_silent_image_is_no_sight():
    # The toy's last pattern is silent on image 0, however many are asked for.
    (sights,) = best_sights(GRAPH.learnt_from, LAYERS[0], [3], 99)
    assert sorted(sight.row for sight in sights) == [1, 2, 3, 4, 5]


def test_a_mirrored_image_is_shown_mirrored():
    plain, mirrored = (picture_of_row(GRAPH.learnt_from, coordinates, row) for row in (4, 5))
    np.testing.assert_array_equal(plain, coordinates(8))
    np.testing.assert_array_equal(mirrored, coordinates(10)[:, ::-1])


def test_the_gallery_shows_the_strongest_patterns_where_they_are():
    page = np.asarray(node_patches(GRAPH, LAYERS[1], coordinates, patterns=3, columns=7, tile=20))
    ranked = best_of_filters(GRAPH)
    for i, sights in enumerate(best_sights(GRAPH.learnt_from, LAYERS[1], ranked, 7)):
        top = 62 + i * (22 + 20 + 8) + 22
        for slot in range(7):
            tile = page[top : top + 20, 12 + 24 * slot : 32 + 24 * slot]
            if slot < len(sights):
                sight = sights[slot]
                picture = picture_of_row(GRAPH.learnt_from, coordinates, sight.row)
                expected = cut_patch(picture, sight.x, sight.y, IMAGE_SIZE, 20)
                np.testing.assert_array_equal(tile, np.asarray(expected))
            else:
                assert (tile == GREY).all()
    assert page.shape[0] == 62 + 3 * 50 + 6


def best_of_filters(graph):
    """Of the six patterns of filters 0 1 1 3 3 3, best first."""
    score = graph[LAYERS[1]].score.tolist()
    best = [max(rows, key=score.__getitem__) for rows in ([0], [1, 2], [3, 4, 5])]
    return sorted(best, key=lambda row: -score[row])


def test_pruned_patterns_are_not_shown():
    best = GRAPH.rank(LAYERS[1])[0]
    before = np.asarray(node_patches(GRAPH, LAYERS[1], coordinates, patterns=2))
    after = np.asarray(node_patches(GRAPH.prune([best.name]), LAYERS[1], coordinates, patterns=2))
    row = 22 + 96 + 8
    np.testing.assert_array_equal(after[62 : 62 + row], before[62 + row : 62 + 2 * row])


def test_a_graph_without_positions_says_so():
    with pytest.raises(DatasetError, match="does not hold where its patterns are"):
        node_patches(toy_graph(learnt=False), LAYERS[0], coordinates)


def test_equal_scores_stay_in_order():
    score = torch.ones_like(GRAPH[LAYERS[2]].score)
    graph = replace(GRAPH, layers=(*GRAPH.layers[:2], replace(GRAPH.layers[2], score=score)))
    assert [pattern.row for pattern in graph.rank(LAYERS[2])] == list(range(8))
