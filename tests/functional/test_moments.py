"""Means and intervals from sums against numpy on the values themselves, and against simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.moments import (
    Estimate,
    joint_moments,
    mean,
    mean_estimate,
    moments,
    normal_interval,
    share,
    share_estimate,
    standard_error,
    variance,
)

NAN, INF = math.nan, math.inf
LOGITS = st.one_of(st.floats(-50, 50, width=32), st.sampled_from([NAN, INF, -INF, 0.0]))


@given(values=st.lists(st.tuples(LOGITS, LOGITS), max_size=30), cut=st.integers(0, 30), more=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_any_split_gives_the_same_sums(values, cut, more):
    table = torch.tensor(values, dtype=torch.float32).view(-1, 2)
    a, b = table.unbind(1)
    parts = [slice(0, cut), slice(cut, cut + more), slice(cut + more, None)]
    torch.testing.assert_close(sum(moments(table[p]) for p in parts), moments(table), rtol=0, atol=1e-9)
    torch.testing.assert_close(sum(joint_moments(a[p], b[p]) for p in parts), joint_moments(a, b), rtol=0, atol=1e-9)
    assert joint_moments(a, b).isfinite().all()


def test_moments_by_hand():
    values = torch.tensor([[1.0, 10.0], [2.0, NAN], [3.0, 30.0], [INF, 5.0]])
    assert moments(values).tolist() == [[3, 6, 14], [3, 45, 1025]]
    assert moments(values, torch.tensor([True, True, False, False])).tolist() == [[2, 3, 5], [1, 10, 100]]
    each = torch.tensor([[True, False], [True, True], [True, True], [True, True]])
    assert moments(values, each).tolist() == [[3, 6, 14], [2, 35, 925]]
    assert moments(torch.ones(2, 4, 5)).shape == (4, 5, 3)
    assert moments(torch.tensor([True, False, True])).tolist() == [3, 2, 2]


def test_joint_moments_count_an_item_only_if_both_are_known():
    a, b = torch.tensor([1.0, 2.0, NAN, 4.0, 5.0]), torch.tensor([3.0, INF, 1.0, 5.0, 9.0])
    keep = torch.tensor([True, True, True, True, False])
    assert joint_moments(a, b, keep).tolist() == [2, 5, 8, 17, 34, 23]


def test_squares_are_summed_in_float64():
    values = torch.full((1000,), 4096.0) + torch.arange(1000) % 2 / 16
    assert variance(moments(values)).item() == pytest.approx(values.double().var().item(), rel=1e-6)


def test_equals_numpy():
    values = np.random.default_rng(0).normal(2, 3, (50, 4))
    sums = moments(torch.from_numpy(values))
    error = values.std(axis=0, ddof=1) / math.sqrt(50)
    assert np.allclose(mean(sums), values.mean(axis=0), rtol=1e-12)
    assert np.allclose(variance(sums), values.var(axis=0, ddof=1), rtol=1e-12)
    assert np.allclose(standard_error(sums), error, rtol=1e-12)
    low, high = normal_interval(sums).unbind(-1)
    assert np.allclose(low, values.mean(axis=0) - 1.959963984540054 * error, rtol=1e-12)
    assert np.allclose(low + high, 2 * values.mean(axis=0), rtol=1e-12)
    assert mean_estimate(sums[2]) == pytest.approx((mean(sums)[2].item(), low[2].item(), high[2].item()))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 + 0.1])
def test_one_value_has_no_variance_and_equal_ones_have_none(value):
    assert math.isnan(variance(moments(torch.tensor([value], dtype=torch.float64))))
    assert math.isnan(standard_error(moments(torch.tensor([value]))))
    many = moments(torch.full((7,), value, dtype=torch.float64))
    assert variance(many).item() == pytest.approx(0, abs=1e-12 * max(value, 1) ** 2)


def test_nothing_is_undefined():
    nothing = moments(torch.empty(0, 2))
    assert nothing.tolist() == [[0, 0, 0], [0, 0, 0]]
    for score in (mean, variance, standard_error, normal_interval):
        assert score(nothing).isnan().all()
    assert all(map(math.isnan, share_estimate(torch.zeros(6))))


def test_share_by_hand():
    """3 / (3 + 1), and its slope (1 / 16, -3 / 16)."""
    got = share(3.0, 1.0, torch.tensor([[0.04, 0.0], [0.0, 0.01]], dtype=torch.float64))
    reach = 1.959963984540054 * math.sqrt(0.04 + 9 * 0.01) / 16
    assert got == pytest.approx((0.75, 0.75 - reach, 0.75 + reach))
    # Errors that go together move both parts alike and leave their share; of opposite signs they do not.
    together = torch.tensor([[0.09, 0.03], [0.03, 0.01]], dtype=torch.float64)
    assert share(3.0, 1.0, together) == pytest.approx((0.75, 0.75, 0.75))
    assert share(-3.0, -1.0, together) == pytest.approx((0.75, 0.75, 0.75))
    assert share(3.0, -1.0, together).high == pytest.approx(0.75 + 1.959963984540054 * 6 * 0.1 / 16)


def test_share_stays_within_bounds_and_knows_no_zero_over_zero():
    wide = torch.eye(2, dtype=torch.float64) * 9
    assert share(0.1, 1.0, wide)[1:] == (0.0, 1.0)
    assert all(map(math.isnan, share(0.0, 0.0, wide)))
    assert all(map(math.isnan, share(NAN, 1.0, wide)))
    assert share(0.0, 2.0, wide).value == 0


def test_share_of_one_item_has_no_interval():
    got = share_estimate(joint_moments(torch.tensor([1.0]), torch.tensor([-3.0])))
    assert got.value == 0.25
    assert math.isnan(got.low)
    assert math.isnan(got.high)


def test_share_of_three_items_by_hand():
    a, b = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.0, -1.0, -2.0])
    got = share_estimate(joint_moments(a, b))
    # Means 3 and -1; errors of the means 7/3, 1/3 and -5/6 from deviations -2, -1, 3 and 1, 0, -1; slope (1, 3) / 16.
    error = math.sqrt(7 / 3 + 9 / 3 - 2 * 3 * 5 / 6) / 16
    assert got == pytest.approx((0.75, 0.75 - 1.959963984540054 * error, 0.75 + 1.959963984540054 * error))


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.8])
def test_share_interval_covers_the_truth(correlation):
    """2,000 experiments of 150 items: the interval misses in 5 %, give or take four standard errors."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(150, 2000, 2, generator=generator, dtype=torch.float64)
    a = 1 + 2 * noise[..., 0]
    b = -0.5 + 1.5 * (correlation * noise[..., 0] + math.sqrt(1 - correlation**2) * noise[..., 1])
    estimates = [share_estimate(sums) for sums in joint_moments(a, b)]
    covered = np.mean([e.low <= 2 / 3 <= e.high for e in estimates])
    assert abs(covered - 0.95) < 0.02


def test_estimates_are_plain_numbers():
    estimate = mean_estimate(moments(torch.tensor([1.0, 2.0])))
    assert isinstance(estimate, Estimate)
    assert all(type(number) is float for number in estimate)
    assert all(
        type(number) is float for number in share_estimate(joint_moments(torch.tensor([1, 2]), torch.tensor([3, 5])))
    )
