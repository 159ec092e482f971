"""Valid patterns and their units: as one sees them one by one, and what a decoder is given."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_interp import DatasetError
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.maths.assignment import assigned_units, synthesise, valid_patterns
from lightning_interp.methods.graph.patterns import LayerPatterns, PatternLayer
from lightning_interp.methods.graph.up_convolution import UpConvolution
from tests.helpers.graphs import LAYERS, toy_graph
from tests.methods.graph.reference import assignment as reference


def layer_of(filters, grid, num_filters):
    """Patterns of which only filter, scale and grid are asked."""
    rows = len(filters)
    none = torch.zeros(rows, 0)
    values = torch.full((rows,), 2.0, dtype=torch.float64)
    return PatternLayer(
        layer="conv",
        filter=torch.tensor(filters),
        position=values[:, None].expand(-1, 2),
        width=values,
        spread=values,
        score=values,
        parents=none.long(),
        weight=none,
        sway=torch.zeros(rows, 2, 0),
        scale=torch.ones(num_filters, dtype=torch.float64),
        grid=grid,
    )


# A map of 2 x 3 values at x = 1, 5, 9 and y = 2, 10, of 12 x 16 pixels. Within 5.9 pixels a pattern of width 2 is more
# likely than a tenth of a uniform distribution.
GRID = Grid(Axis(2, 16, 2.0, 8.0), Axis(3, 12, 1.0, 4.0))
LAYER = layer_of([0, 2, 2], GRID, 3)
PLACE = torch.tensor([[[5.0, 10.0], [1.0, 2.0], [9.0, 2.0]]])


def test_the_best_tenth_is_valid_rounded_up():
    score = torch.arange(1, 31).float().flip(0)[None].repeat(2, 1)
    score[1] = score[1].flip(0)
    valid = valid_patterns(score)
    assert valid[0].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert valid[1].nonzero()[:, 0].tolist() == [27, 28, 29]
    assert valid_patterns(score[:, :21]).sum(1).tolist() == [3, 3]
    assert valid_patterns(score, 0.0).sum() == 0
    assert valid_patterns(score, 1.0).all()


def test_silent_and_pruned_patterns_are_never_valid():
    score = torch.tensor([[0.0, 5.0, 1.0, 0.0], [3.0, 9.0, 2.0, 1.0]])
    assert valid_patterns(score, 1.0).tolist() == [[False, True, True, False], [True] * 4]
    among = torch.tensor([True, False, True, True])
    # A third of three patterns, not of four.
    assert valid_patterns(score, 1 / 3, among).tolist() == [[False, False, True, False], [True, False, False, False]]


def test_of_equal_scores_the_first_are_valid():
    assert valid_patterns(torch.ones(1, 40), 0.1)[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        valid_patterns(torch.ones(1, 3), share)


def test_units_go_to_the_nearest_pattern_of_their_filter_or_to_none():
    units = assigned_units(PLACE - torch.tensor([2.5, 0.0]), torch.tensor([[True, True, True]]), LAYER)
    assert units.shape == (1, 3, 2, 3)
    # Filter 0: the second row but for its end, 6.5 pixels off. Filter 2: the first row, all of it.
    assert units[0, 0].tolist() == [[False] * 3, [True, True, False]]
    assert not units[0, 1].any()
    assert units[0, 2].tolist() == [[True] * 3, [False] * 3]
    # The middle of the first row is 1.5 pixels from the third pattern, 6.5 from the second.
    units = assigned_units(PLACE - torch.tensor([2.5, 0.0]), torch.tensor([[False, False, True]]), LAYER)
    assert units.nonzero().tolist() == [[0, 2, 0, 1], [0, 2, 0, 2]]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 1), st.sampled_from(LAYERS[:2]), st.floats(0.01, 2))
def test_units_are_those_of_the_slow_way(seed, share, name, tau):
    graph = toy_graph(images=2, seed=seed)
    layer, patterns = graph[name], graph.learnt_from[name]
    among = torch.rand(len(layer), generator=torch.Generator().manual_seed(seed)) < 0.7
    valid = valid_patterns(patterns.score, share, among)
    assert torch.equal(valid, reference.valid(patterns.score, share, among))
    expected = patterns.expected
    assert torch.equal(assigned_units(expected, valid, layer, tau), reference.units(layer, expected, valid, tau))


def test_of_two_patterns_the_wider_has_the_units_far_from_both():
    layer = replace(layer_of([0, 0], GRID, 1), width=torch.tensor([1.0, 6.0], dtype=torch.float64))
    place = torch.tensor([[[1.0, 2.0], [1.0, 2.0]]])
    narrow, wide = (assigned_units(place, torch.tensor([[first, not first]]), layer)[0, 0] for first in (True, False))
    assert narrow.nonzero().tolist() == [[0, 0]]
    assert torch.equal(wide, ~narrow)


@pytest.mark.parametrize("seed", range(3))
def test_by_chance_as_many_active_units_are_kept(seed):
    maps = torch.randn(4, 3, 2, 3, generator=torch.Generator().manual_seed(seed))
    patterns = LayerPatterns(PLACE.expand(4, -1, -1), torch.rand(4, 3) + 0.1, PLACE.expand(4, -1, -1))
    drawn = synthesise(nn.Identity(), maps, LAYER, patterns, share=0.5)
    kept, chance = (each.flatten(1) > 0 for each in (drawn.kept, drawn.chance))
    assert kept.sum(1).tolist() == chance.sum(1).tolist()
    assert torch.equal(drawn.chance[drawn.chance != 0], maps[drawn.chance != 0])
    assert drawn.chance.min() == 0
    assert not torch.equal(kept, chance)
    again = synthesise(nn.Identity(), maps, LAYER, patterns, share=0.5)
    assert torch.equal(again.chance, drawn.chance)


class Sum(nn.Module):
    """Draws the sum of each unit's responses over the filters."""

    def forward(self, maps):
        return maps.sum(1, keepdim=True).expand(-1, 3, -1, -1)


def test_the_decoder_gets_the_units_of_valid_patterns_alone():
    maps = torch.arange(1.0, 19).reshape(1, 3, 2, 3)
    maps[0, 1] = -1
    patterns = LayerPatterns(PLACE, torch.tensor([[1.0, 3.0, 0.0]]), PLACE)
    drawn = synthesise(Sum(), maps, LAYER, patterns, share=0.1)
    assert torch.equal(drawn.full, Sum()(maps))
    # The second pattern: filter 2 at the first row's first unit, and at the one between both, which is as near to it.
    assert drawn.kept[0, 0].tolist() == [[13, 14, 0], [0, 0, 0]]
    assert not drawn.blank.any()
    assert drawn.share.tolist() == pytest.approx([27 / (21 + 93)])


def test_a_silent_map_has_no_share():
    patterns = LayerPatterns(PLACE, torch.zeros(1, 3), PLACE)
    drawn = synthesise(Sum(), torch.zeros(1, 3, 2, 3), LAYER, patterns)
    assert drawn.share.isnan().all()
    assert torch.equal(drawn.kept, drawn.blank)


def test_every_pattern_valid_and_wide_keeps_the_whole_map():
    layer = replace(layer_of([0], GRID, 1), width=torch.tensor([6.0], dtype=torch.float64))
    maps = torch.rand(1, 1, 2, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    decoder = UpConvolution(torch.ones(1), torch.zeros(3, 16, 12), 3, width=4)
    nn.init.normal_(decoder.output.weight)
    drawn = synthesise(decoder, maps, layer, LayerPatterns(PLACE[:, :1], torch.ones(1, 1), PLACE[:, :1]), share=1.0)
    assert drawn.full.shape == (1, 3, 16, 12)
    assert not drawn.full.requires_grad
    assert torch.equal(drawn.full, drawn.kept)
    assert not torch.equal(drawn.full, drawn.blank)
    assert drawn.share.tolist() == [1]


@pytest.mark.parametrize("shape", [(1, 3, 3, 2), (2, 3, 2, 3), (1, 4, 2, 3)])
def test_maps_of_another_layer_are_refused(shape):
    patterns = LayerPatterns(PLACE, torch.ones(1, 3), PLACE)
    with pytest.raises(DatasetError, match=r"given for layer 'conv', expected \(1, 3, 2, 3\)"):
        synthesise(Sum(), torch.zeros(shape), LAYER, patterns)
