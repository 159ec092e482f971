"""The patterns of a layer as tensors: from a result and back, and what they expect."""

import dataclasses
import math

import pytest
import torch

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.maths.edges import Above, Parents, predict
from lightning_interp.methods.graph.maths.layer import Nodes, side, units_of
from tests.helpers.graph_maps import grid_of
from tests.helpers.graphs import assert_same_graph

GRID = grid_of(3, 6, 8)


def nodes_of(parents=None):
    return Nodes(
        filter=torch.tensor([1, 4]),
        scale=torch.tensor([2.0, 0.5], dtype=torch.float64),
        position=torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.1]]], dtype=torch.float64),
        width=torch.tensor([[0.1, 0.2], [0.3, 0.15]], dtype=torch.float64),
        spread=torch.tensor([[0.2, 0.3], [0.1, 0.25]], dtype=torch.float64),
        sway=torch.arange(8, dtype=torch.float64).view(2, 2, 2, 1),
        parents=parents,
    )


def test_units_are_in_sides_of_the_image():
    assert side(GRID) == pytest.approx(math.sqrt(24 * 48))
    units = units_of(GRID, torch.zeros(1, dtype=torch.float64), None)
    assert (units.x * side(GRID)).tolist() == pytest.approx([3.5, 11.5, 19.5, 27.5, 35.5, 43.5])
    assert (units.y * side(GRID)).tolist() == pytest.approx([3.5, 11.5, 19.5])
    assert units.window == math.inf
    assert units_of(GRID, torch.zeros(1), 0.2).window == 0.2


def test_a_result_and_back():
    parents = Parents(torch.tensor([[0, 2]] * 4), torch.tensor([[0.25, 0.75]] * 4, dtype=torch.float64))
    nodes = nodes_of(parents)
    score = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    result = nodes.result("conv", 6, score, GRID)
    assert result.filter.tolist() == [1, 1, 4, 4]
    assert result.names()[2] == "conv/4/0"
    assert result.scale.tolist() == [math.inf, 2, math.inf, math.inf, 0.5, math.inf]
    assert result.score.tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(result.position[1], torch.tensor([0.3, 0.4], dtype=torch.float64) * side(GRID))
    again = Nodes.of(result, torch.zeros(1, dtype=torch.float64))
    for own, other in zip(again[:6], nodes[:6], strict=True):
        torch.testing.assert_close(own, other)
    assert_same_graph(tuple(again.parents), tuple(parents))
    top = nodes_of().result("conv", 6, score, GRID)
    assert top.parents.shape == top.weight.shape == (4, 0)
    assert Nodes.of(top, torch.zeros(1)).parents is None


def test_filters_with_different_numbers_of_patterns_are_refused():
    result = nodes_of().result("conv", 6, torch.ones(2, 2), GRID)
    for filters in ([1, 1, 1, 4], [1, 4, 1, 4]):
        with pytest.raises(DatasetError, match="layer 'conv': its filters have not the same number of patterns"):
            Nodes.of(dataclasses.replace(result, filter=torch.tensor(filters)), torch.zeros(1))


def test_patterns_without_parents_beside_some_with():
    result = nodes_of(Parents(torch.tensor([[0, 2]] * 4), torch.full((4, 2), 0.5))).result(
        "conv", 6, torch.ones(2, 2), GRID
    )
    nobody = torch.full_like(result.parents, -1)
    assert Nodes.of(dataclasses.replace(result, parents=nobody), torch.zeros(1)).parents is None
    nobody[0, 1] = 2
    with pytest.raises(DatasetError, match="layer 'conv': 'conv/1/1' has no parents, but others have"):
        Nodes.of(dataclasses.replace(result, parents=nobody), torch.zeros(1))


def test_response_is_of_the_chosen_filters_and_never_negative():
    maps = torch.arange(-6.0, 6.0, dtype=torch.float64).view(1, 6, 1, 2)
    assert nodes_of().response(maps).flatten().tolist() == [0, 0, 4, 6]


def test_expected_by_nothing_by_pose_and_by_parents():
    nodes = nodes_of()
    still = nodes.expect(3)
    assert still.shift.shape == (3, 2, 2, 2)
    assert still.shift.abs().max() == still.level.abs().max() == 0
    assert torch.equal(still.width, nodes.width)
    posed = nodes.expect(2, torch.tensor([[1.0], [-2.0]], dtype=torch.float64))
    assert torch.equal(posed.shift[1], nodes.sway[..., 0] * -2)
    parents = Parents(torch.tensor([[0, 1]] * 4), torch.full((4, 2), 0.5, dtype=torch.float64))
    above = Above(torch.randn(2, 2, 2, dtype=torch.float64), torch.full((2,), 0.3, dtype=torch.float64))
    led = nodes_of(parents).expect(2, torch.ones(2, 1, dtype=torch.float64), above)
    told = predict(parents, above)
    assert torch.equal(led.shift.flatten(1, 2), told.shift)
    assert torch.equal(led.level.flatten(1), told.level)
    torch.testing.assert_close(led.width, torch.full((2, 2), 0.3, dtype=torch.float64))
