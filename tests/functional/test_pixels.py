"""Counts of active pixels, by hand on 3x3 maps and against a loop; the re-pairing of images."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.pixels import active_pixels, add_areas, add_concepts, cyclic_partners
from lightning_interp.functional.regions import concept_lookup, encode_regions, stack_regions
from lightning_interp.functional.upsampling import Axis, Grid, hot_cells, upsample

SAME = Grid(Axis.cells(3, 3), Axis.cells(3, 3))


def active_of(maps, thresholds, grid=SAME):
    bound = torch.tensor(thresholds, dtype=torch.float64)
    cells = hot_cells(maps, maps.amax((2, 3)), bound, grid)
    return active_pixels(cells, bound, grid)


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.int64)


def test_counts_by_hand():
    # Two units on one 3x3 image at the map's own size, so that every value is its own pixel.
    maps = torch.tensor([[[[1, 5, 2], [7, 3, 9], [0, 4, 5]], [[-1, -2, -1], [-3, -1, -5], [-1, -2, -4]]]]).float()
    row, unit, pixel = active_of(maps, [4.0, -2.0])
    got = sorted(zip(unit.tolist(), pixel.tolist(), strict=True))
    assert got == [(0, 1), (0, 3), (0, 5), (0, 8), (1, 0), (1, 2), (1, 4), (1, 6)]
    labels = {"object": torch.tensor([[1, 1, 0], [1, 0, 2], [0, 0, 2]]), "part": torch.tensor([[3, 0, 0]] * 3)}
    regions = stack_regions([encode_regions(labels, {"scene": [4]}, concept_lookup([1, 2, 3, 4]), (3, 3))])
    counts = add_concepts(zeros(2, 4), row, unit, pixel, regions)
    assert counts.tolist() == [[2, 2, 1, 4], [1, 0, 2, 4]]
    assert add_concepts(counts, row, unit, pixel, regions).tolist() == [[4, 4, 2, 8], [2, 0, 4, 8]]
    assert add_areas(zeros(2, 2), row, unit, torch.tensor([[True, False]])).tolist() == [[4, 0], [4, 0]]


def test_the_threshold_itself_is_not_active():
    row, _, _ = active_of(torch.full((1, 1, 3, 3), 6.0), [6.0])
    assert len(row) == 0


def test_no_active_pixel_counts_nothing():
    none = zeros(0)
    regions = stack_regions([encode_regions({}, {"s": [1]}, concept_lookup([1]), (3, 3))])
    assert add_concepts(zeros(2, 1), none, none, none, regions).tolist() == [[0], [0]]
    assert add_areas(zeros(2, 3), none, none, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_areas_only_on_images_that_count():
    row, unit = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 0, 1])
    members = torch.tensor([[True, False], [True, True], [False, True]])
    assert add_areas(zeros(3, 2), row, unit, members).tolist() == [[1, 2], [2, 2], [0, 0]]


@pytest.mark.parametrize("border", ["hold", "zero"])
@pytest.mark.parametrize(("low", "mask"), [((3, 3), (7, 7)), ((1, 1), (4, 4)), ((4, 2), (5, 9)), ((6, 6), (4, 4))])
def test_active_pixels_equal_dense_comparison(low, mask, border):
    grid = Grid(*(Axis.cells(n, size, border) for n, size in zip(low, mask, strict=True)))
    maps = torch.randn(4, 3, *low, generator=torch.Generator().manual_seed(0)) - 0.3
    thresholds = [-0.2, 0.4, 5.0]  # the first below zero: a zero border then counts as active
    row, unit, pixel = active_of(maps, thresholds, grid)
    dense = upsample(maps, grid) > torch.tensor(thresholds, dtype=torch.float64)[:, None, None]
    found = torch.zeros_like(dense).flatten(2)
    found[row, unit, pixel] = True
    assert torch.equal(found.view_as(dense), dense)
    assert len(row) == int(dense.sum())


def test_nan_threshold_activates_nothing():
    assert len(active_of(torch.randn(1, 1, 3, 3), [math.nan])[0]) == 0


@given(order=st.lists(st.integers(0, 10**6), min_size=2, max_size=60, unique=True))
@settings(max_examples=100, deadline=None)
def test_partners_are_one_cycle(order):
    partners = cyclic_partners(order)
    assert set(partners) == set(partners.values()) == set(order)
    assert not any(image == partner for image, partner in partners.items())
    image, steps = order[0], 0
    while steps == 0 or image != order[0]:
        image, steps = partners[image], steps + 1
    assert steps == len(order)


def test_partners_need_two_images():
    assert cyclic_partners([]) == cyclic_partners([7]) == {}


def test_partners_leave_the_global_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = cyclic_partners(range(10))
    assert torch.equal(torch.rand(1), expected)
    assert first == cyclic_partners(range(10))
