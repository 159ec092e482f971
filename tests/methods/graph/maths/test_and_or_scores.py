"""The published scores of the And-Or graph, against the authors' own numbers and by hand."""

import math

import pytest
import torch

from lightning_interp.functional.peaks import cell_points
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.maths import and_or_scores as aog
from tests.methods.graph.reference import and_or as published

# First value at one-based pixel 8.5, stride 16.
GRID = Grid(Axis(14, 224, 7.5, 16.0), Axis(14, 224, 7.5, 16.0))
FINE = Grid(Axis(28, 224, 3.5, 8.0), Axis(28, 224, 3.5, 8.0))
REACH = 33.6


def xy(pairs):
    """Published (row, column) pixels, counted from 1, as (x, y) from 0."""
    return torch.tensor(pairs, dtype=torch.float64).flip(-1) - 1


def unit(rank, grid=GRID):
    """Centre of a published unit number: from 1, along columns."""
    column, row = divmod(rank - 1, grid.rows.length)
    return cell_points(grid)[row * grid.columns.length + column]


def starts(ranks, grid=GRID):
    return torch.stack([unit(rank, grid) for rank in ranks])


def responses():
    lines = published.RESPONSES.split()
    values = torch.tensor([math.nan if word == "." else float(word) for word in lines], dtype=torch.float64)
    maps = values.reshape(2, 14, 14)
    return aog.local_score(maps, ~maps.isnan())


def test_patterns_take_the_published_units():
    maps, points = responses(), cell_points(GRID)
    expected, valid = xy(published.PARENT_POS), torch.tensor(published.PARENT_VALID, dtype=torch.bool)
    start = starts(published.NODE_RANK)
    channel = torch.tensor(published.CHANNEL) - 1
    found = aog.best_units(
        maps.flatten(1)[channel],
        points,
        start,
        REACH,
        torch.tensor(published.GEN_SUM, dtype=torch.float64),
        aog.parent_score(points, expected, valid),
    )
    cells = [(row - 1) * 14 + column - 1 for row, column in published.BEST_XHW]
    assert found.cell.tolist() == cells
    for mine, theirs in (
        (found.local, published.BEST_LOCAL),
        (found.geometric, published.BEST_GEO),
        (found.parent, published.BEST_PARENT),
        (found.score, published.BEST_GENL),
        (aog.log_gauss(xy(published.PART_CENTER) - start, 70), published.BEST_RELI),
    ):
        torch.testing.assert_close(mine, torch.tensor(theirs, dtype=torch.float64), atol=1e-6, rtol=0)
    votes = found.point + torch.tensor(published.DELTA_HW, dtype=torch.float64).flip(-1)
    torch.testing.assert_close(votes, xy(published.BEST_PHW_PART), atol=1e-6, rtol=0)


def test_generic_support_is_the_published_one():
    maps = responses()
    support = aog.generic_score(torch.stack([maps, maps]), GRID, REACH)
    for rank, channels in published.GENERIC.items():
        column, row = divmod(rank - 1, 14)
        assert support[:, row, column].tolist() == pytest.approx(channels, abs=1e-6)


def test_generic_support_is_a_mean_over_images():
    maps = torch.zeros(2, 1, 1, 3, dtype=torch.float64)
    maps[1, 0, 0, 2] = 1
    line = Grid(Axis(1, 10, 4.5, 10.0), Axis(3, 30, 4.5, 10.0))
    # One step costs 100 / 400: too much for 0.1 of a response of 1.
    assert aog.generic_score(maps, line, 10, delta=10).tolist() == [[[0.0, 0.0, 0.05]]]
    reached = aog.generic_score(maps, line, 10, delta=50)
    torch.testing.assert_close(reached, torch.tensor([[[0.0, (0.1 - 0.01) / 2, 0.05]]], dtype=torch.float64))


def test_nearest_parents_are_the_published_ones():
    names = [(channel, number) for channel, own in enumerate(published.UPPER, 1) for number in range(1, len(own) + 1)]
    above = starts([rank for own in published.UPPER for rank in own])
    index, offset = aog.nearest_parents(starts(published.LOWER, FINE), above, 3)
    assert [[list(names[i]) for i in row] for row in index.tolist()] == published.NEAREST
    torch.testing.assert_close(offset, xy(published.NEAREST_OFFSET) + 1)


def test_votes_peak_where_the_published_ones_do():
    votes, local, score, reliability = (
        torch.cat([torch.tensor(layer[key], dtype=torch.float64) for layer in published.VOTES])
        for key in ("pHW_part", "local", "GenL", "reli")
    )
    votes = votes.flip(-1) - 1
    found = aog.vote(votes, local, score, reliability, (50, 60), (224, 224))
    assert found.centre.tolist() == xy(published.VOTED["position"]).tolist()
    assert found.size.tolist() == published.VOTED["scale"][::-1]
    assert found.score == pytest.approx(published.VOTED["score"], abs=1e-6)
    assert found.peak == pytest.approx(published.VOTED["max_value"], abs=1e-6)
    row = aog.vote_map(votes, local > 0, (224, 224))[79, 39:120:4]
    assert row.tolist() == pytest.approx(published.VOTE_MAP_ROW_80, abs=1e-6)


def test_no_vote_without_a_response():
    two = torch.tensor([[10.0, 10.0], [40.0, 40.0]], dtype=torch.float64)
    alone = aog.vote_map(two, torch.tensor([False, True]), (64, 64))
    assert alone[10, 10] == 0
    assert alone.flatten().argmax() == 40 * 64 + 40
