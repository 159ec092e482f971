"""Exact quantiles against numpy's, whole and by parts, as several processes would hold them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.quantile import (
    from_sortable_bits,
    interpolate_quantile,
    kth_largest,
    quantile_rank,
    sortable_bits,
    upper_quantile,
)

# Few distinct values, so that ties are the rule; both zeros, and values whose bits differ only in low bytes.
AWKWARD = [-0.0, 0.0, 1.0, -1.0, 6.0, 1.0000001, 3.4e38, -3.4e38, 1e-45, -1e-45, 0.1, 5.0]
FLOATS = st.one_of(st.sampled_from(AWKWARD), st.floats(-(2.0**100), 2.0**100, width=32))


@given(values=st.lists(FLOATS, min_size=1, max_size=60), quantile=st.floats(0.001, 0.999))
@settings(max_examples=200, deadline=None)
def test_equals_numpy(values, quantile):
    tensor = torch.tensor(values, dtype=torch.float32)
    expected = np.quantile(tensor.double().numpy(), 1 - quantile)
    assert upper_quantile(tensor[None], len(values), quantile).item() == expected


@pytest.mark.parametrize("quantile", [0.005, 0.01, 0.03, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("count", [1, 2, 3, 100, 199, 200, 201, 4001])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_numpy_from_the_largest_values_alone(quantile, count, ties):
    values = torch.randn(3, count, generator=torch.Generator().manual_seed(count))
    values = values.mul(2).round() if ties else values
    m, _ = quantile_rank(count, quantile)
    kept = values.topk(m, dim=1).values
    expected = np.quantile(values.double().numpy(), 1 - quantile, axis=1)
    assert np.array_equal(upper_quantile(kept, count, quantile).numpy(), expected)


@given(count=st.integers(1, 10**6), quantile=st.floats(1e-9, 1 - 1e-9))
@settings(max_examples=200, deadline=None)
def test_rank_is_of_a_value_that_exists(count, quantile):
    m, fraction = quantile_rank(count, quantile)
    assert 1 <= m <= count
    assert 0 <= fraction < 1
    assert m > 1 or fraction == 0


def test_rank_never_falls_as_values_are_added():
    """Values kept for n images must suffice if some of them turn out to be unreadable."""
    for quantile in (0.005, 0.01, 0.3):
        ranks = [quantile_rank(count, quantile)[0] for count in range(1, 3000)]
        assert ranks == sorted(ranks)


def test_by_hand():
    # Nine values; the upper quarter begins between the third and the second largest: (9 - 1) * 0.75 = 6.
    values = torch.tensor([[5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 4.0, 6.0]])
    assert upper_quantile(values, 9, 0.25).item() == 7.0
    # (9 - 1) * 0.8 = 6.4: two fifths of the way from 7 to 8.
    assert upper_quantile(values, 9, 0.2).item() == pytest.approx(7.4)


def test_interpolation_rounds_from_the_nearer_end():
    low, high = torch.tensor([0.1]), torch.tensor([0.7])
    for fraction in (0.0, 0.3, 0.4999, 0.5, 0.8):
        expected = np.quantile(np.array([low.item(), high.item()]), fraction)
        assert interpolate_quantile(low, high, fraction).item() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_keep_order_and_come_back(dtype):
    values = torch.tensor([-math.inf, -3e38, -1.0, -1e-45, 0.0, 1e-45, 1.0, 1.0000002, 3e38, math.inf], dtype=dtype)
    keys = sortable_bits(values)
    assert (keys.diff() > 0).all()
    assert torch.equal(from_sortable_bits(keys, dtype), values)
    assert sortable_bits(torch.tensor([-0.0], dtype=dtype)) == sortable_bits(torch.tensor([0.0], dtype=dtype))


@given(
    values=st.lists(FLOATS, min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    double=st.booleans(),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_kth_largest_of_parts(values, cuts, double, data):
    """The parts go through one selection, which is what an all-reduce of their counts amounts to."""
    dtype = torch.float64 if double else torch.float32
    whole = torch.tensor([values, values[::-1]], dtype=dtype)
    k = data.draw(st.integers(1, len(values)))
    edges = sorted({0, *(min(c, len(values)) for c in cuts), len(values)})
    parts = [whole[:, a:b] for a, b in itertools.pairwise(edges)]
    expected = whole.sort(dim=1, descending=True).values[:, k - 1]
    padded = torch.cat([torch.nn.functional.pad(p, (0, 40 - p.shape[1]), value=-math.inf) for p in parts], 1)
    assert torch.equal(kth_largest(padded, k), expected)


def test_reductions_are_used():
    """A process with no value of its own finds the quantile through what the others report."""
    everything = torch.tensor([[4.0, 2.0, 9.0], [1.0, 1.0, 0.0]])
    reports = []
    upper_quantile(everything, 3, 0.3, lambda t: reports.append(t) or t, lambda t: reports.append(t) or t)
    answers = iter(reports)
    ours = upper_quantile(torch.empty(2, 0), 3, 0.3, lambda t: next(answers), lambda t: next(answers))
    assert np.array_equal(ours.numpy(), np.quantile(everything.double().numpy(), 0.7, axis=1))
