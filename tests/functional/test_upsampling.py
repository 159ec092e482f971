"""Geometry and bilinear upsampling against torch's own, whole and cell by cell."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.upsampling import Axis, Cells, Grid, hot_cells, upsample, upsample_cells


def grid_of(low, mask, border="hold"):
    return Grid(*(Axis.cells(n, size, border) for n, size in zip(low, mask, strict=True)))


def dense_from_cells(cells, grid, num_images, units):
    """Whole maps put together from the pixels of the cells; NaN where no cell lies."""
    patches = upsample_cells(cells, grid)
    out = torch.full((num_images, units, grid.rows.size * grid.columns.size), math.nan, dtype=torch.float64)
    which, row, column = patches.values.isfinite().nonzero(as_tuple=True)
    pixel = patches.pixel[which, row, column]
    assert out[cells.image[which], cells.unit[which], pixel].isnan().all(), "a pixel lies in two cells"
    out[cells.image[which], cells.unit[which], pixel] = patches.values[which, row, column]
    return out.view(num_images, units, grid.rows.size, grid.columns.size)


SIZES = [
    ((7, 7), (112, 112)),
    ((3, 5), (10, 14)),
    ((1, 1), (6, 4)),
    ((1, 4), (3, 9)),
    ((8, 8), (5, 3)),
    ((4, 4), (1, 1)),
]


@pytest.mark.parametrize(("low", "mask"), SIZES)
def test_equals_interpolate(low, mask):
    maps = torch.randn(2, 3, *low, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(maps.double(), size=mask, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(maps, grid_of(low, mask)), expected, rtol=1e-13, atol=1e-13)


def test_zero_border_fades_to_zero_by_hand():
    # Values at pixels 1.5 and 5.5; one step (4 pixels) outside them the map is zero.
    grid = Grid(Axis.cells(1, 1, "zero"), Axis.cells(2, 8, "zero"))
    row = upsample(torch.tensor([[[[8.0, 16.0]]]]), grid)[0, 0, 0]
    assert row.tolist() == [5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 14.0, 10.0]


@pytest.mark.parametrize("border", ["hold", "zero"])
@pytest.mark.parametrize(("low", "mask"), SIZES)
def test_cells_cover_every_pixel_once_and_agree_with_whole_maps(low, mask, border):
    grid = grid_of(low, mask, border)
    maps = torch.randn(2, 3, *low, generator=torch.Generator().manual_seed(1))
    cells = hot_cells(maps, maps.amax((2, 3)), torch.full((3,), -math.inf, dtype=torch.float64), grid)
    assert torch.equal(dense_from_cells(cells, grid, 2, 3), upsample(maps, grid))


@pytest.mark.parametrize("first", [-3.7, 0.0, 2.25, 40.0])
def test_anchors_anywhere_hold_the_border(first):
    axis = Axis(3, 12, first, 2.5)
    values = torch.tensor([1.0, 4.0, 2.0])
    expected = torch.from_numpy(
        np.interp(range(12), axis.anchors, values.numpy())  # numpy holds the ends too
    )
    torch.testing.assert_close(upsample(values[None], Grid(Axis.cells(1, 1), axis))[0], expected)


def test_hot_cells_are_exactly_those_with_a_corner_above():
    maps = torch.zeros(1, 1, 3, 3)
    maps[0, 0, 1, 1] = 1.0
    grid = grid_of((3, 3), (6, 6))
    bound = torch.tensor([0.5], dtype=torch.float64)
    cells = hot_cells(maps, maps.amax((2, 3)), bound, grid)
    # Cells are numbered over 4 x 4; the middle value is a corner of the inner four.
    assert cells.place.tolist() == [5, 6, 9, 10]
    assert cells.corners.tolist() == [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    # The bound itself is not above the bound.
    assert not len(hot_cells(maps, maps.amax((2, 3)), torch.tensor([1.0], dtype=torch.float64), grid).place)


def test_zero_border_lifts_a_negative_map():
    maps = torch.full((1, 1, 2, 2), -1.0)
    bound = torch.tensor([-0.5], dtype=torch.float64)
    assert not len(hot_cells(maps, maps.amax((2, 3)), bound, grid_of((2, 2), (4, 4))).place)
    cells = hot_cells(maps, maps.amax((2, 3)), bound, grid_of((2, 2), (4, 4), "zero"))
    assert len(cells.place) == 8  # all of the 3 x 3 cells but the middle one


@pytest.mark.parametrize("border", ["hold", "zero"])
def test_no_map_above_the_bound(border):
    maps = torch.zeros(2, 3, 4, 4)
    cells = hot_cells(maps, maps.amax((2, 3)), torch.zeros(3, dtype=torch.float64), grid_of((4, 4), (8, 8), border))
    assert [len(part) for part in cells] == [0, 0, 0, 0]
    assert upsample_cells(cells, grid_of((4, 4), (8, 8), border)).values.numel() == 0


@given(
    corners=st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4),
    mask=st.integers(1, 40),
)
@settings(max_examples=100, deadline=None)
def test_never_exceeds_the_corners(corners, mask):
    """Convexity in exact arithmetic must hold after rounding too: pruning by the corners relies on it."""
    grid = grid_of((2, 2), (mask, mask))
    values = upsample(torch.tensor(corners).view(1, 1, 2, 2), grid)
    assert min(corners) <= values.min()
    assert values.max() <= max(corners)


@pytest.mark.parametrize("mask", [9, 10, 100, 113])
def test_plateau_stays_flat(mask):
    """A saturated map (ReLU6) must not exceed its own plateau by a rounding error."""
    values = upsample(torch.full((1, 1, 7, 7), 6.1), grid_of((7, 7), (mask, mask)))
    assert (values == torch.tensor(6.1).double()).all()


def test_cells_select_and_weigh():
    cells = Cells(torch.arange(3), torch.zeros(3, dtype=torch.int64), torch.arange(3), torch.zeros(3, 4))
    assert cells.where(torch.tensor([True, False, True])).image.tolist() == [0, 2]
    assert cells.nbytes == 3 * (8 + 8 + 8 + 4 * 4)
