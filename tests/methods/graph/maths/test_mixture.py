"""E-step, M-steps and the search for units, against loops over units."""

import math

import numpy as np
import pytest
import torch

from lightning_interp.methods.graph.maths.mixture import Patterns, Units, explain, moved, spread_about, take
from tests.methods.graph.reference import graphs as reference


def case(seed=0, images=2, filters=3, patterns=4, height=5, width=7, dtype=torch.float64):
    """Maps, patterns and units: everything differs from everything."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    maps = (uniform(images, filters, height, width) - 0.4).clamp(min=0)
    found = Patterns(
        uniform(filters, patterns, 2),
        0.1 + 0.3 * uniform(filters, patterns),
        0.2 * uniform(images, filters, patterns, 2) - 0.1,
        -uniform(images, filters, patterns),
    )
    units = Units(torch.linspace(0.05, 1.2, width).to(dtype), torch.linspace(0.1, 0.9, height).to(dtype))
    return maps.to(dtype), Patterns(*(each.to(dtype) for each in found)), units


def as_numpy(maps, patterns, units):
    return tuple(each.numpy() for each in (maps, units.x, units.y, *patterns))


@pytest.mark.parametrize("tau", [0.1, 3.0])
@pytest.mark.parametrize("window", [math.inf, 0.25])
def test_e_step_equals_loops_over_units(tau, window):
    maps, patterns, units = case()
    found = explain(maps, patterns, Units(units.x, units.y, window), tau)
    for own, other in zip(found, reference.explain(*as_numpy(maps, patterns, units), tau, window), strict=True):
        np.testing.assert_allclose(own.numpy(), other, rtol=1e-10, atol=1e-14)


def test_e_step_of_one_unit_and_one_pattern_by_hand():
    patterns = Patterns(
        torch.tensor([[[0.5, 0.5]]]), torch.tensor([[0.2]]), torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1)
    )
    found = explain(torch.full((1, 1, 1, 1), 3.0), patterns, Units(torch.tensor([0.7]), torch.tensor([0.5])), 0.1)
    density = math.exp(-0.5) / (2 * math.pi * 0.04)
    share = density / (density + 0.1)
    assert found.mass.item() == pytest.approx(3 * share, rel=1e-6)
    assert found.first.flatten().tolist() == pytest.approx([3 * share * 0.2, 0], rel=1e-5)
    assert found.second.item() == pytest.approx(3 * share * 0.04, rel=1e-5)
    assert found.likelihood.item() == pytest.approx(3 * math.log((density + 0.1) / 2), rel=1e-6)


def test_what_nothing_can_explain_is_shared_by_nobody():
    maps, patterns, units = case()
    found = explain(maps, patterns, Units(units.x, units.y, 1e-9), 0.0)
    assert all(bool(each.isfinite().all()) for each in found[:3])
    assert found.mass.abs().max() == 0
    # As improbable as a number can say, for others are held against it.
    wanted = maps.double().sum((1, 2, 3)) * math.log(torch.finfo(maps.dtype).tiny)
    torch.testing.assert_close(found.likelihood, wanted)


@pytest.mark.parametrize("away", [13.2, 13.4, 14.0, 14.4, 20.0])
def test_units_too_far_away_for_a_quotient_are_shared_by_nobody(away):
    place = torch.tensor([[[0.5, 0.5]]])
    patterns = Patterns(place, torch.full((1, 1), 0.1), torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1))
    found = explain(
        torch.full((1, 1, 1, 1), 1e3), patterns, Units(torch.tensor([0.5 + away / 10]), place[0, 0, 1:]), 0.0
    )
    assert [values.tolist() for values in (found.mass.flatten(), found.first.flatten())] == [[0], [0, 0]]


def test_float32_is_float64_but_for_rounding():
    for own, other in zip(*(explain(*case(dtype=each), 0.1) for each in (torch.float32, torch.float64)), strict=True):
        assert own.dtype == (torch.float64 if own.dim() == 1 else torch.float32)
        torch.testing.assert_close(own.double(), other, rtol=1e-4, atol=1e-6)


def test_the_precision_that_training_is_set_to_does_not_matter():
    maps, patterns, units = case(images=4, height=20, width=20, patterns=20, dtype=torch.float32)
    own = explain(maps, patterns, units, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other = explain(maps, patterns, units, 0.1)
    for one, two in zip(own, other, strict=True):
        assert torch.equal(one, two)


def test_m_step_is_the_weighted_mean_and_deviation():
    maps, patterns, units = case(images=1, filters=1, patterns=1)
    patterns = patterns._replace(shift=torch.zeros_like(patterns.shift), level=torch.zeros_like(patterns.level))
    # With no background, one pattern owns everything.
    found = explain(maps, patterns, units, 0.0)
    y, x = np.meshgrid(units.y, units.x, indexing="ij")
    points, weight = np.stack([x.ravel(), y.ravel()], 1), maps.flatten().numpy()
    mean = np.average(points, axis=0, weights=weight)
    sums = [each.sum(0) for each in found[:3]]
    np.testing.assert_allclose(moved(patterns, *sums[:2])[0, 0].numpy(), mean, rtol=1e-6)
    variance = np.average(((points - mean) ** 2).sum(1), weights=weight) / 2
    assert spread_about(*sums, 0.01, 1.0).item() == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert spread_about(*sums, 0.01, 0.2).item() == 0.2
    assert spread_about(*sums, 0.6, 1.0).item() == 0.6


def test_a_pattern_that_explains_nothing_stays_and_spreads():
    _, patterns, _ = case()
    shape = patterns.width.shape
    none, nothing = torch.zeros(shape, dtype=torch.float64), torch.zeros(*shape, 2, dtype=torch.float64)
    assert torch.equal(moved(patterns, none, nothing), patterns.position)
    assert (spread_about(none, nothing, none, 0.1, 0.5) == 0.5).all()


@pytest.mark.parametrize("background", [0.0, 0.05])
def test_the_unit_taken_is_that_of_brute_force(background):
    for seed in range(5):
        maps, patterns, units = case(seed)
        found = take(maps, patterns, units, background)
        cell, score = reference.take(*as_numpy(maps, patterns, units), background)
        assert found.cell.tolist() == cell.tolist()
        np.testing.assert_allclose(found.score.numpy(), score, rtol=1e-10)


def test_of_equal_units_the_first_is_taken():
    one = Patterns(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[0.25]]), torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1))
    units = Units(torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0.25, 0.75]))
    for cells, first in (((0, 2, 3, 5), 0), ((2, 3, 5), 2), ((5, 3), 3)):
        maps = torch.zeros(1, 1, 6)
        maps[..., list(cells)] = 1
        assert take(maps.view(1, 1, 2, 3), one, units, 0.0).cell.item() == first


def test_where_a_filter_is_silent_the_pattern_stays_where_it_is_expected():
    maps, patterns, units = case()
    maps[1, 2] = 0
    found = take(maps, patterns, units, 0.0)
    centre = patterns.position + patterns.shift
    column = (units.x - centre[1, 2, :, :1]).abs().argmin(1)
    row = (units.y - centre[1, 2, :, 1:]).abs().argmin(1)
    assert found.cell[1, 2].tolist() == (row * len(units.x) + column).tolist()
    assert found.score[1, 2].tolist() == [0] * 4
    assert (found.score[0] > 0).all()


def test_nothing_is_taken_outside_the_window():
    maps, patterns, units = case()
    near = take(maps, patterns, Units(units.x, units.y, 0.2), 0.01).cell
    centre = patterns.position + patterns.shift
    away = torch.maximum(
        (units.x[near % len(units.x)] - centre[..., 0]).abs(), (units.y[near // len(units.x)] - centre[..., 1]).abs()
    )
    assert away.max() <= 0.2
    assert not torch.equal(near, take(maps, patterns, units, 0.01).cell)
