"""Parents: who is chosen, and what they say together."""

import math

import numpy as np
import pytest
import torch

from lightning_interp.methods.graph.maths import edges
from lightning_interp.methods.graph.maths.edges import Above, Parents, choose_parents, predict
from tests.methods.graph.reference import graphs as reference


def above_of(seed=0, images=5, patterns=6):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(images, patterns, 2, generator=generator, dtype=torch.float64) * 0.1
    return Above(shift, 0.05 + 0.2 * torch.rand(patterns, generator=generator, dtype=torch.float64))


def weighted(rows, spread):
    """Parents with the weights of the paper's product."""
    precision = spread[rows].square().reciprocal()
    return Parents(rows, precision / precision.sum(1, keepdim=True))


def test_the_product_of_gaussians_is_one_gaussian():
    above, rows, mu = above_of(), torch.tensor([[0, 2, 5], [4, 1, 3]]), np.array([0.4, 0.6])
    told = predict(weighted(rows, above.spread), above)
    for image in range(5):
        for v, parents in enumerate(rows.tolist()):
            for point in ((0.4, 0.6), (0.1, 0.9), (0.75, 0.5)):
                factors = [
                    reference.gaussian(point, mu + above.shift[image, u].numpy(), above.spread[u].item())
                    for u in parents
                ]
                product = math.prod(factors) ** (1 / 3)
                one = reference.gaussian(point, mu + told.shift[image, v].numpy(), told.width[v].item())
                assert math.exp(told.level[image, v]) * one == pytest.approx(product, rel=1e-10)


def test_parents_of_equal_spread_say_their_mean():
    above = above_of()._replace(spread=torch.full((6,), 0.2, dtype=torch.float64))
    rows = torch.tensor([[0, 2, 5]])
    told = predict(weighted(rows, above.spread), above)
    torch.testing.assert_close(told.shift[:, 0], above.shift[:, rows[0]].mean(1), rtol=1e-12, atol=1e-14)
    assert told.width.item() == pytest.approx(0.2)
    apart = (above.shift[:, rows[0]] - told.shift).square().sum(2).mean(1) / (2 * 0.04)
    torch.testing.assert_close(told.level[:, 0], -apart, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_where_there_is_no_parent_nothing_is_said(place):
    above, rows = above_of(), torch.tensor([[0, 2, 4], [4, 1, 3]])
    own = weighted(rows, above.spread)
    wider = [
        torch.cat([each[:, :place], torch.full_like(each[:, :1], none), each[:, place:]], 1)
        for each, none in zip(own, (-1, 0), strict=True)
    ]
    for told, same in zip(predict(Parents(*wider), above), predict(own, above), strict=True):
        torch.testing.assert_close(told, same, rtol=1e-12, atol=1e-14)


def test_pieces_of_patterns_say_what_all_say(monkeypatch):
    above, rows = above_of(), torch.tensor([[0, 1], [2, 3], [4, 5], [1, 0], [5, 3]])
    whole = predict(weighted(rows, above.spread), above)
    monkeypatch.setattr(edges, "_CHUNK", 2)
    for own, other in zip(predict(weighted(rows, above.spread), above), whole, strict=True):
        assert torch.equal(own, other)


def activity(seed, images=5, units=4):
    """What a pattern owns: points, shares, and their moments about mu."""
    draw = np.random.default_rng(seed)
    points, owner, mu = draw.random((images, units, 2)), draw.random((images, units)), np.array([0.5, 0.4])
    away = points - mu
    moments = owner.sum(1), (owner[..., None] * away).sum(1), (owner * (away**2).sum(2)).sum(1)
    return points, owner, mu, [torch.tensor(each)[:, None] for each in moments]


def test_chosen_are_the_set_that_makes_the_activation_likeliest():
    chosen_sets = set()
    for seed in range(6):
        points, owner, mu, moments = activity(seed)
        above = above_of(seed)
        found = choose_parents(*moments, above, torch.arange(6), 3, lambda values: values)
        best = reference.best_parents(points, owner, above.shift.numpy(), above.spread.numpy(), mu, 3)
        assert set(found.row[0].tolist()) == best
        precision = above.spread[found.row[0]] ** -2
        torch.testing.assert_close(found.weight[0], precision / precision.sum())
        chosen_sets.add(frozenset(best))
    assert len(chosen_sets) > 1


def test_only_candidates_are_chosen_and_all_if_they_are_few():
    moments = activity(0)[3]
    found = choose_parents(*moments, above_of(), torch.tensor([1, 4]), 3, lambda values: values)
    assert sorted(found.row[0].tolist()) == [1, 4]


def test_the_pattern_that_moves_alike_comes_first():
    above = above_of(images=8)._replace(spread=torch.full((6,), 0.1, dtype=torch.float64))
    for true in range(6):
        mass = torch.ones(8, 1, dtype=torch.float64)
        first = above.shift[:, true : true + 1]
        second = first.square().sum(2)
        found = choose_parents(mass, first, second, above, torch.arange(6), 2, lambda values: values)
        assert found.row[0, 0] == true


def test_sums_over_processes_are_those_of_all_images():
    moments, above = activity(3)[3], above_of(3)
    whole = choose_parents(*moments, above, torch.arange(6), 3, lambda values: values)
    parts = [
        (*(each[part] for each in moments), above._replace(shift=above.shift[part]))
        for part in (slice(0, 4), slice(4, 5))
    ]
    sums = []
    choose_parents(*parts[1], torch.arange(6), 3, lambda values: sums.append(values) or values)
    found = choose_parents(*parts[0], torch.arange(6), 3, lambda values: values + sums.pop(0))
    assert torch.equal(found.row, whole.row)
