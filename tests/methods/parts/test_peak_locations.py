"""Gathered peaks: the same rows however images arrive, alone and on real processes."""

import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.location import location_scores
from lightning_interp.functional.peaks import Peaks, find_peaks
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.parts.peak_locations import PeakLocations
from lightning_interp.probing.values import computed
from tests.helpers.ranks import run_ranks, values

IMAGES, FILTERS = 9, 3
MAPS = torch.randn(IMAGES, FILTERS, 4, 5, generator=torch.Generator().manual_seed(0)).clamp(min=-0.5)
MAPS[2, 1] = 0.0
MAPS[3, 0, 1, 1] = math.nan
LANDMARKS = torch.rand(IMAGES, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 40 - 5
LANDMARKS[1, 0] = LANDMARKS[5, 1] = math.nan
CATEGORY = torch.arange(IMAGES) % 2
GRID = Grid(Axis.cells(4, 32), Axis.cells(5, 40))


def fill(batches):
    peaks = PeakLocations(IMAGES, FILTERS)
    for rows in batches:
        rows = torch.tensor(list(rows))
        peaks.update(MAPS[rows], rows)
    return peaks


def read(peaks):
    shape = (IMAGES, FILTERS)
    return computed(peaks, shape, shape, shape)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(nan=-1e9), b.nan_to_num(nan=-1e9))


def test_rows_are_what_was_given():
    value, cell, mean = read(fill([list(range(IMAGES))]))
    expected = find_peaks(MAPS)
    assert torch.equal(value, expected.value)
    assert torch.equal(cell, expected.cell)
    assert torch.equal(mean[0], MAPS[0].clamp(min=0).mean((1, 2)))
    assert mean[3, 0] == -math.inf


@given(order=st.permutations(range(IMAGES)), cuts=st.sets(st.integers(1, IMAGES - 1)), again=st.integers(0, IMAGES - 1))
@settings(max_examples=20, deadline=None)
def test_any_split_gives_the_same_rows(order, cuts, again):
    edges = [0, *sorted(cuts), IMAGES]
    batches = [order[a:b] for a, b in itertools.pairwise(edges)]
    assert_same(read(fill([*batches, [again]])), read(fill([list(range(IMAGES))])))


def test_images_not_seen_do_not_count():
    value, cell, mean = read(fill([[0, 1, 2, 4]]))
    assert (value[5:] == -math.inf).all()
    assert (mean[5:] == -math.inf).all()
    assert (cell[5:] == -1).all()
    category = CATEGORY.masked_fill(mean[:, 1] == -math.inf, -1)
    assert category.tolist() == [0, 1, 0, -1, 0, -1, -1, -1, -1]
    scores = location_scores(Peaks(value, cell), LANDMARKS, GRID, category=category)
    seen = location_scores(Peaks(value[:5], cell[:5]), LANDMARKS[:5], GRID, category=category[:5])
    assert scores.summary() == pytest.approx(seen.summary(), nan_ok=True)


def test_reset_and_pickle():
    peaks = fill([[0, 1]])
    copy = pickle.loads(pickle.dumps(peaks))
    assert torch.equal(copy.value, peaks.value)
    peaks.reset()
    assert (peaks.value == -math.inf).all()


# Uneven shares with an image that both see; a process that sees nothing.
SHARES = ([[[0, 1, 2], [3, 4, 5]], [[8, 5], [6, 7]]], [[range(IMAGES)], []])


def on_rank(rank, world):
    return [read(fill(shares[rank])) for shares in SHARES]


@pytest.mark.ddp
@pytest.mark.timeout(90)
def test_processes_have_what_one_alone_has():
    alone = read(fill([list(range(IMAGES))]))
    for results in values(run_ranks(on_rank, 2, timeout=60)):
        for result in results:
            assert_same(result, alone)
