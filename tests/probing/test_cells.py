"""A layer seen once: exact thresholds for every split, their bound below them, and what is wrong with a unit."""

import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.probing.cells import CellPass, TopValues
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from tests.helpers.ranks import run_ranks, values

CPU = torch.device("cpu")


def values_of(seed, rounded, count=120):
    values = torch.randn(3, count, generator=torch.Generator().manual_seed(seed))
    values[2] = 0.0
    return values.mul(2).round() if rounded else values


@given(seed=st.integers(0, 99), rounded=st.booleans(), quantile=st.floats(0.005, 0.95), step=st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_equals_numpy_however_it_arrives(seed, rounded, quantile, step):
    values = values_of(seed, rounded)
    expected = np.quantile(values.double().numpy(), 1 - quantile, axis=1)
    top = TopValues(3, 120, quantile, torch.float32, CPU)
    for start in range(0, 120, step):
        top.update(values[:, start : start + step])
        assert (top.bound.numpy() <= expected).all()
        assert (top.guess(8.0) >= top.bound).all()
    assert np.array_equal(top.threshold(120).numpy(), expected)


@given(seed=st.integers(0, 99), quantile=st.floats(0.005, 0.5))
@settings(max_examples=30, deadline=None)
def test_single_values_above_the_bound_suffice(seed, quantile):
    values = values_of(seed, rounded=True).double()
    top = TopValues(3, 120, quantile, torch.float64, CPU)
    for chunk in values.split(25, 1):
        unit, place = (chunk > top.bound[:, None]).nonzero(as_tuple=True)
        top.add(unit, chunk[unit, place])
    expected = np.quantile(values.numpy(), 1 - quantile, axis=1)
    assert np.array_equal(top.threshold(120).numpy(), expected)


def test_memory_stays_near_what_the_quantile_needs():
    top = TopValues(2, 10_000, 0.01, torch.float32, CPU)
    values = torch.arange(10_000.0).repeat(2, 1)  # rising: every value displaces another
    for chunk in values.split(10, 1):
        top.update(chunk)
        assert top._values.shape[1] <= 2 * top.m
    assert np.array_equal(top.threshold(10_000).numpy(), np.quantile(values.double().numpy(), 0.99, axis=1))


def test_fewer_values_than_announced():
    """Images that cannot be read: the rank is then that of the values there are."""
    values = values_of(1, rounded=False, count=70)
    top = TopValues(3, 120, 0.1, torch.float32, CPU)
    top.update(values)
    assert np.array_equal(top.threshold(70).numpy(), np.quantile(values.double().numpy(), 0.9, axis=1))


def test_an_infinite_bound_sets_a_unit_aside():
    top = TopValues(2, 40, 0.1, torch.float32, CPU)
    top.bound[0] = math.inf
    top.update(torch.arange(80.0).view(2, 40))
    top.update(torch.zeros(2, 0))
    assert top.bound[0] == math.inf
    assert top.threshold(40)[1] == np.quantile(np.arange(40.0, 80.0), 0.9)


@pytest.mark.parametrize("margin", [1.0, 8.0])
def test_guess_is_the_quantile_so_far_at_a_larger_share(margin):
    top = TopValues(1, 10_000, 0.01, torch.float32, CPU)
    assert top.guess(margin) == -math.inf  # nothing is known yet
    top.update(torch.arange(50.0)[None])
    rank = math.ceil(margin * 0.01 * 50)
    assert top.guess(margin) == 50 - rank


class Pass(CellPass[None]):
    """Counts nothing."""

    def count(self, cells, labels):
        raise AssertionError("nothing is tallied here")


def settled(maps, *more, ranks=None, images=None):
    """A layer's pass over one or more batches, of ``images`` in all on all processes."""
    batches = [batch for batch in (maps, *more) if len(batch)]
    images = sum(map(len, batches)) if images is None else images
    own = Pass(
        LayerInfo("layer", *maps.shape[1:]),
        Grid(*(Axis.cells(n, 4) for n in maps.shape[2:])),
        quantile=0.3,
        quantile_on="low",
        num_images=images,
        byte_budget=0,
        device=CPU,
        ranks=ranks or Ranks(),
    )
    for batch in batches:
        own.update(batch, torch.arange(len(batch)))
    own.settle(images)
    return own


def health_of(*batches):
    own = settled(*batches)
    return own.nonfinite.tolist(), own.constant.tolist()


def test_counts_every_broken_value_over_batches():
    one, two = torch.rand(2, 4, 2, 2), torch.rand(3, 4, 2, 2)
    one[0, 0, 0, 0] = math.nan
    two[2, 0, 1, 1] = math.inf
    two[0, 1] = -math.inf
    two[1, 3, 0, 1] = math.nan
    assert health_of(one, two) == ([2, 4, 0, 1], [False] * 4)


def test_constant_over_all_batches_only():
    one = torch.zeros(2, 4, 2, 2)
    one[:, 1] = 6.0
    one[0, 3, 0, 0] = -0.0  # equal to 0.0
    two = one.clone()
    two[1, 1, 1, 1] = 5.999
    two[:, 2] = 1.0  # constant within each batch, but not over both
    assert health_of(one, two) == ([0] * 4, [True, False, False, True])


def test_a_broken_unit_is_not_constant():
    maps = torch.full((1, 2, 2, 2), math.nan)
    maps[0, 1] = 0.0
    maps[0, 1, 0, 0] = math.nan
    assert health_of(maps) == ([4, 1], [False, False])


def test_one_unit():
    assert health_of(torch.ones(1, 1, 1, 1)) == ([0], [True])
    assert health_of(torch.full((1, 1, 1, 1), math.nan)) == ([1], [False])


def maps_of_a_layer():
    """7 images of 5 units: sound, constant, with a NaN, with an infinity, and constant but for the last image."""
    maps = torch.randn(7, 5, 2, 3, generator=torch.Generator().manual_seed(1))
    maps[:, 1] = 2.0
    maps[3, 2, 0, 1] = math.nan
    maps[4, 3] = -math.inf
    maps[:, 4] = 0.5
    maps[6, 4, 1, 1] = 1.0
    return maps


def test_thresholds_are_numpys_and_none_for_a_broken_unit():
    maps = maps_of_a_layer()
    own = settled(maps[:2], maps[2:])
    expected = np.quantile(maps[:, [0, 1, 4]].double().transpose(0, 1).flatten(1).numpy(), 0.7, axis=1)
    assert own.thresholds[[0, 1, 4]].tolist() == expected.tolist()
    assert own.thresholds.isnan().tolist() == [False, False, True, True, False]
    assert own.nonfinite.tolist() == [0, 0, 1, 6, 0]
    assert own.constant.tolist() == [False, True, False, False, False]


def on_rank(rank, world):
    """Even shares; all images on the first process and none on the others."""
    maps, ranks = maps_of_a_layer(), Ranks.connect(timedelta(seconds=30))
    passes = [settled(share, ranks=ranks, images=7) for share in (maps[rank::world], maps[:0] if rank else maps)]
    return [(own.thresholds, own.nonfinite, own.constant) for own in passes]


@pytest.mark.ddp
@pytest.mark.timeout(90)
@pytest.mark.parametrize("world", [2, 3])
def test_processes_find_what_one_finds(world):
    own = settled(maps_of_a_layer())
    alone = own.thresholds, own.nonfinite, own.constant
    for shares in values(run_ranks(on_rank, world, timeout=60)):
        for found in shares:
            for one, other in zip(found, alone, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
