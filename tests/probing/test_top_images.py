"""Running top k against a sort of everything."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.probing.top_images import TopActivations


def winners(maps, batches, k, indices=None):
    metric = TopActivations(maps.shape[1], maps.shape[2], maps.shape[3], k)
    indices = torch.arange(len(maps)) if indices is None else indices
    for rows in batches:
        metric.update(maps[rows], maps[rows].amax((2, 3)), indices[rows])
    return metric.compute()


@given(order=st.permutations(range(8)), cuts=st.sets(st.integers(1, 7)), rounded=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_equals_sorting_everything_for_any_split(order, cuts, rounded, seed):
    maps = torch.randn(8, 3, 2, 4, generator=torch.Generator().manual_seed(seed))
    maps = maps.round() if rounded else maps
    edges = [0, *sorted(cuts), 8]
    batches = [order[a:b] for a, b in itertools.pairwise(edges)]
    top = winners(maps, batches, 3)
    for unit in range(3):
        peaks = maps[:, unit].amax((1, 2))
        best = sorted(range(8), key=lambda i: (-peaks[i].item(), i))[:3]
        assert top.image[unit].tolist() == best
        assert top.score[unit].tolist() == peaks[best].tolist()
        assert torch.equal(top.maps[unit], maps[best, unit])
        flat = maps[best, unit].flatten(1)
        first = [row.tolist().index(row.max()) for row in flat]
        assert top.peak[unit].tolist() == [[p // 4, p % 4] for p in first]


def test_fewer_images_than_slots():
    top = winners(torch.rand(2, 2, 2, 2), [[0, 1]], 4)
    assert top.image[:, 2:].tolist() == [[-1, -1], [-1, -1]]
    assert (top.score[:, 2:] == -math.inf).all()
    assert sorted(top.image[0, :2].tolist()) == [0, 1]


def test_negative_scores_and_both_zeros():
    maps = torch.tensor([-3.0, -0.0, 0.0, -1e-40])[:, None, None, None]
    top = winners(maps, [[3, 2], [1, 0]], 4)
    assert top.image.tolist() == [[1, 2, 3, 0]]
    assert top.score.tolist() == [[0.0, 0.0, maps[3].item(), -3.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite_never_win(bad):
    maps = torch.zeros(3, 1, 1, 1)
    maps[1] = bad
    assert winners(maps, [[0, 1, 2]], 3).image.tolist() == [[0, 2, -1]]


def test_large_indices_keep_their_order():
    indices = torch.tensor([2**32 - 2, 5, 2**31])
    top = winners(torch.ones(3, 1, 1, 1), [[0, 1, 2]], 3, indices)
    assert top.image.tolist() == [[5, 2**31, 2**32 - 2]]


def test_states_of_several_processes_merge():
    """What torchmetrics leaves after a gather is a stack of every process's states."""
    maps = torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(3))
    parts = [TopActivations(2, 2, 2, 3) for _ in range(3)]
    for rank, metric in enumerate(parts[:2]):  # the third process has no image
        rows = list(range(rank, 6, 2))
        metric.update(maps[rows], maps[rows].amax((2, 3)), torch.tensor(rows))
    gathered = TopActivations(2, 2, 2, 3)
    gathered.update(maps[:1], maps[:1].amax((2, 3)), torch.tensor([0]))
    for name in ("key", "peak", "maps"):
        setattr(gathered, name, torch.stack([getattr(p, name) for p in parts]))
    for merged, whole in zip(gathered.compute(), winners(maps, [list(range(6))], 3), strict=True):
        assert torch.equal(merged, whole)
