"""The running quantile: the bound stays below the final threshold, which is exact for every split."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.probing.top_values import TopValues

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
