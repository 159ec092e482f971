"""Slice discovery on planted and on absent slices, and why an error bit among the features proves nothing."""

import math

import pytest
import torch

from lightning_interp.methods.bias.maths.slices import MAX_IMAGES, k_means, precision_at_k, worst_slice


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shortcut_data(strength, seed=0, n=480, width=24):
    """A linear network that reads label y and context c from its embedding; ``strength`` is the context's share."""
    g = seeded(seed)
    y, c = torch.randint(2, (2, n), generator=g)
    a, b = torch.randn(2, width, generator=g)
    a, b = (1 - strength) * a, strength * b
    embeddings = (2 * y - 1)[:, None] * a + (2 * c - 1)[:, None] * b + torch.randn(n, width, generator=g)
    return embeddings, y, c, (embeddings @ (a + b) > 0) != (y == 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_shortcut_makes_the_conflicting_faces_the_worst_slice(seed):
    embeddings, y, c, errors = shortcut_data(0.75, seed)
    found = worst_slice(embeddings, y, errors, seeded())
    assert found.error > 0.9 > found.highest_chance
    assert 0.4 < found.overall < 0.6
    assert abs(found.chance - found.overall) < 0.1
    assert found.size > 60
    assert precision_at_k(found.members, y != c, 20) == 1.0
    assert found.count == 480


@pytest.mark.parametrize("seed", range(5))
def test_errors_by_pure_chance_make_no_slice(seed):
    g = seeded(seed)
    embeddings, labels = torch.randn(600, 16, generator=g), torch.randint(2, (600,), generator=g)
    errors = torch.rand(600, generator=g) < 0.2
    found = worst_slice(embeddings, labels, errors, g)
    assert found.error < 0.35
    assert abs(found.chance - 0.2) < 0.06
    assert found.chance <= found.highest_chance < 0.5


def test_the_error_bit_alone_would_make_every_worst_slice_all_errors():
    # The rule that this package does not use: cluster with the error bit, then count errors in those clusters.
    g = seeded(1)
    embeddings, errors = torch.randn(600, 16, generator=g) / 4, torch.rand(600, generator=g) < 0.2
    points = torch.cat([embeddings.double() / 4, errors[:, None].double()], 1)
    _, nearest = k_means(points, 8, g)
    naive = max(errors[nearest == number].double().mean() for number in range(8))
    assert naive == 1.0
    assert worst_slice(embeddings, torch.zeros(600), errors, g).error < 0.4


def test_an_images_own_error_does_not_place_it():
    embeddings, y, _, errors = shortcut_data(0.6)
    before = worst_slice(embeddings, y, errors, seeded(), shuffles=1)
    halves = torch.randperm(480, generator=seeded()).chunk(2)
    held = halves[1][torch.isin(halves[1], before.members)]
    flipped = errors.clone()
    flipped[halves[1]] = ~flipped[halves[1]]
    after = worst_slice(embeddings, y, flipped, seeded(), shuffles=1)
    # The second half's members are those that the first half's slice takes in: its own errors have no say.
    assert len(held) > 20
    assert torch.isin(held, after.members).all()


def test_error_overall_and_members_by_hand():
    # Two far clusters of 50; every second image of the second one is wrong, whatever half it falls in.
    where = torch.arange(100) // 50
    embeddings = where[:, None] * 10 + torch.linspace(0, 0.01, 100)[:, None]
    errors = (where == 1) & (torch.arange(100) % 2 == 1)
    found = worst_slice(embeddings, torch.zeros(100), errors, seeded(), slices=2, shuffles=3)
    assert sorted(found.members.tolist()) == list(range(50, 100))
    assert (found.error, found.overall, found.size) == (0.5, 0.25, 50)


def test_members_are_ordered_by_distance_from_the_centre():
    where = torch.arange(200) // 100
    embeddings = where[:, None] * 10 + torch.cat([torch.zeros(100), torch.linspace(-1, 1, 100)])[:, None]
    found = worst_slice(embeddings, torch.zeros(200), where == 1, seeded(), slices=2, shuffles=1)
    distance = (found.members - 149.5).abs()
    assert set(found.members.tolist()) == set(range(100, 200))
    assert distance[:20].max() < distance[-20:].min()


def test_labels_part_what_embeddings_do_not():
    # All wrong in one class only, and the embedding says nothing of the class: GEORGE's reason to look within classes.
    g = seeded()
    embeddings, labels = torch.randn(300, 4, generator=g), torch.randint(2, (300,), generator=g) * 7
    found = worst_slice(embeddings, labels, labels == 7, g)
    assert found.error == 1.0
    assert (labels[found.members] == 7).all()
    # A network that always predicts class 0, such as an untrained one: the labels explain its errors, no slice does.
    assert found.chance == found.highest_chance == 1.0
    assert found.overall < 0.6


def test_deterministic_and_without_touching_the_global_generator():
    embeddings, y, _, errors = shortcut_data(0.5)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = worst_slice(embeddings, y, errors, seeded(5))
    assert torch.equal(torch.rand(1), expected)
    second = worst_slice(embeddings, y, errors, seeded(5))
    assert torch.equal(first.members, second.members)
    assert (first.error, first.chance, first.highest_chance) == (second.error, second.chance, second.highest_chance)


def test_scale_and_shift_of_the_embedding_do_not_matter():
    embeddings, y, _, errors = shortcut_data(0.5)
    first = worst_slice(embeddings.double(), y, errors, seeded())
    second = worst_slice(embeddings.double() * 1024 + 3, y, errors, seeded())
    assert sorted(first.members.tolist()) == sorted(second.members.tolist())


def test_rows_that_are_not_finite_are_left_out():
    embeddings, y, _, errors = shortcut_data(0.75)
    embeddings[7], embeddings[9, 2] = math.inf, math.nan
    found = worst_slice(embeddings, y, errors, seeded())
    assert found.count == 478
    assert not {7, 9} & set(found.members.tolist())
    # Members are rows of the input, not of what was left of it.
    assert found.error == errors[found.members].double().mean()


@pytest.mark.parametrize("value", [False, True])
def test_no_errors_and_nothing_but_errors(value):
    embeddings, y, _, errors = shortcut_data(0.5, n=100)
    found = worst_slice(embeddings, y, torch.full_like(errors, value), seeded(), shuffles=2)
    assert found.error == found.overall == found.chance == found.highest_chance == float(value)


def test_equal_embeddings_make_fewer_slices():
    found = worst_slice(torch.ones(40, 3), torch.zeros(40), torch.zeros(40) == 1, seeded(), shuffles=1)
    assert (found.size, found.error) == (40, 0.0)


def test_precision_at_k_by_hand():
    members, group = torch.tensor([4, 1, 0]), torch.tensor([False, True, False, True, True])
    assert precision_at_k(members, group, 1) == 1.0
    assert precision_at_k(members, group, 2) == 1.0
    assert precision_at_k(members, group, 10) == pytest.approx(2 / 3)
    assert math.isnan(precision_at_k(members[:0], group, 3))


def test_refuses_lengths_that_differ_and_too_few_or_too_many():
    rows = torch.zeros(20, 2)
    with pytest.raises(ValueError, match="20 embeddings, 19 labels, 20 errors"):
        worst_slice(rows, torch.zeros(19), torch.zeros(20), seeded())
    with pytest.raises(ValueError, match="15 finite"):
        worst_slice(rows[:15], torch.zeros(15), torch.zeros(15), seeded())
    many = torch.zeros(MAX_IMAGES + 1)
    with pytest.raises(ValueError, match=str(MAX_IMAGES)):
        worst_slice(many[:, None], many, many, seeded())


def test_k_means_finds_clusters_and_reaches_a_fixed_point():
    g = seeded(2)
    corner = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]).double()
    truth = torch.arange(90) % 3
    points = corner[truth] + torch.randn(90, 2, generator=g, dtype=torch.float64)
    centres, nearest = k_means(points, 3, g)
    assert len(set(zip(truth.tolist(), nearest.tolist(), strict=True))) == 3
    for number in range(3):
        torch.testing.assert_close(centres[number], points[nearest == number].mean(0))
