"""Peaks, the images that count, deviations and displacements: by hand, by loop, and against the authors' code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.peaks import (
    cell_points,
    deviation,
    displacement,
    find_peaks,
    peak_points,
    top_images,
)
from lightning_interp.functional.upsampling import Axis, Grid
from tests.reference.part_location import first_peak

# Input and output of the authors' getDistSqrtVar: pos[image][unit] and landmarks[part][image] as (h, w), in pixels.
POS = [
    [[98.9, 138.4], [15.5, 95.3], [189.8, 174.1], [13.3, 191.4], [86, 219.8]],
    [[82.1, 48.1], [122.9, 198], [96.6, 194.3], [159.3, 81], [67.3, 113.2]],
    [[89.4, 83.4], [146, 196], [130.9, 32.7], [49.3, 83.1], [137.7, 31.3]],
    [[18.3, 71.8], [63.4, 6.6], [120.7, 206.4], [119.7, 165.2], [185.6, 187.6]],
    [[204.5, 98.9], [152.9, 27], [197.1, 84.7], [106.5, 199.4], [64.2, 42.5]],
    [[184.5, 134.1], [19, 6.3], [78.7, 1.7], [186.5, 41.1], [61.4, 87.1]],
    [[114.6, 96.8], [140.8, 147.8], [97.7, 21.7], [219.3, 154.8], [18.7, 98.9]],
    [[168.8, 222.2], [14.8, 2.1], [107.5, 94.6], [200.3, 185.1], [74.3, 93.8]],
    [[130.6, 198.1], [45.2, 87.8], [19.8, 143.6], [5.9, 209.5], [117.3, 128.6]],
    [[19.1, 52], [105, 192], [120.7, 63.8], [220, 148.2], [118.4, 45.3]],
    [[66.9, 201.6], [29.8, 119.1], [138.9, 79.5], [172.2, 203.8], [192.1, 165.3]],
    [[45.6, 13.4], [97, 69.9], [43.4, 195.2], [48.4, 184.3], [210, 26.8]],
    [[204.6, 89], [47.5, 41.8], [8.4, 111.7], [86.1, 190.7], [186.6, 12.8]],
    [[89.9, 87.2], [39.8, 56.2], [59, 155.5], [76.2, 24.9], [49.4, 99]],
    [[126.5, 55], [156.7, 48.3], [150.3, 136.5], [39.4, 168.2], [88.3, 120.9]],
]
SCORE = [
    [0.5978, 0.6281, 0.4423, 0.056, 0.7867],
    [0.8596, 0.4902, 0.579, 0.2685, 0.8987],
    [0.6857, 0.2219, 0.8175, 0.9861, 0.346],
    [0.9955, 0.4831, 0.1787, 0.7169, 0.3389],
    [0.7323, 0.5834, 0.1077, 0.5281, 0.8508],
    [0.4778, 0.5393, 0.8631, 0.4467, 0.4927],
    [0.5828, 0.8239, 0.2031, 0.0936, 0.7612],
    [0.5526, 0.3027, 0.8922, 0.8846, 0.5415],
    [0.9884, 0.836, 0.748, 0.2913, 0.0108],
    [0.6786, 0.7351, 0.3507, 0.4788, 0.5672],
    [0.2498, 0.6976, 0.5625, 0.3855, 0.1096],
    [0.5539, 0.3197, 0.7249, 0.1725, 0.3944],
    [0.1962, 0.4083, 0.5764, 0.1069, 0.0548],
    [0.4823, 0.2015, 0.5051, 0.1672, 0.1008],
    [0.5375, 0.9232, 0.8685, 0.5155, 0.3973],
]
ABSENT = [math.nan, math.nan]
LANDMARKS = [
    [
        *([14.8, 61.9], [70.4, 210.9], [26.3, 212.3], ABSENT, [58.7, 215.6], [41.7, 128], [114.4, 44.7]),
        *([49.9, 220.7], ABSENT, [202.2, 22.1], [157.6, 168.1], [50.5, 102.4], [218.3, 73.2], ABSENT, [149.4, 60.4]),
    ],
    [
        *([114, 83.4], [195, 166.8], ABSENT, [95.8, 180.2], [57.7, 121.9], [131.2, 86.9], [10.4, 38.1], ABSENT),
        *([169.8, 113.1], [213.5, 189.9], [162.9, 83.4], [9.7, 124.7], ABSENT, [45.4, 35.5], [219.6, 165.6]),
    ],
]
PUBLISHED = [54.375832811225486, 47.83516820872432, 49.22386101327879, 53.956869276687, 43.78423692013433]


def test_equals_the_authors_code_for_explanatory_graphs():
    """Top 8 of all images first, then those without the landmark dropped; mean over landmarks, in pixels."""
    points, value = torch.tensor(POS, dtype=torch.float64), torch.tensor(SCORE)
    rows, valid = top_images(value, torch.ones_like(value, dtype=torch.bool), 8)
    by_part = []
    for landmark in torch.tensor(LANDMARKS, dtype=torch.float64):
        shown = ~landmark.isnan().any(1)
        distance = (points[rows, torch.arange(5)] - landmark[rows]).norm(dim=2)
        by_part.append(deviation(distance, valid & shown[rows]))
    mean = torch.stack(by_part).mean(0)
    torch.testing.assert_close(mean, torch.tensor(PUBLISHED, dtype=torch.float64), rtol=0, atol=1e-9)


def test_replaced_images_give_other_figures():
    value = torch.tensor(SCORE)
    landmark = torch.tensor(LANDMARKS[0])
    shown = ~landmark.isnan().any(1)
    rows, valid = top_images(value, shown[:, None].expand_as(value), 8)
    assert valid.all()
    assert shown[rows].all()
    ranked = sorted((i for i in range(15) if shown[i]), key=lambda i: -SCORE[i][0])[:8]
    assert rows[:, 0].tolist() == ranked


def test_deviation_by_hand():
    """Distances 3, 5, 7: std 2 with N - 1; 2 / (224 sqrt 2) = 0.006313."""
    three = deviation(torch.tensor([[3.0], [5.0], [7.0]]), torch.ones(3, 1, dtype=torch.bool))
    assert three.item() / (224 * math.sqrt(2)) == pytest.approx(0.006313, abs=5e-7)
    assert three.item() == 2.0
    values = torch.tensor([[3.0, math.nan], [5.0, 1.0], [math.nan, math.nan], [7.0, math.nan]])
    result = deviation(values, ~values.isnan())
    assert result[0] == 2.0
    assert result[1].isnan()  # a single image
    assert deviation(values, torch.zeros(4, 2, dtype=torch.bool)).isnan().all()


@given(seed=st.integers(0, 999), rounded=st.booleans())
@settings(max_examples=30, deadline=None)
def test_peaks_equal_a_loop(seed, rounded):
    maps = torch.randn(3, 4, 3, 5, generator=torch.Generator().manual_seed(seed))
    maps = maps.round().clamp(min=0) if rounded else maps
    maps[0, 0], maps[1, 1, 2, 3] = 1.5, math.nan
    peaks = find_peaks(maps)
    for image in range(3):
        for unit in range(4):
            value, cell = first_peak(maps[image, unit].flatten().tolist())
            assert (peaks.value[image, unit].item(), peaks.cell[image, unit].item()) == (value, cell)


def test_ties_go_along_the_row_first():
    """Column by column, as in MATLAB, the first of these maxima would be the lower left one."""
    maps = torch.tensor([[[[0.0, 3.0], [3.0, 1.0]]]])
    assert find_peaks(maps).cell.tolist() == [[1]]


def test_maps_without_a_peak():
    maps = torch.zeros(1, 4, 2, 2)
    maps[0, 1], maps[0, 2, 0, 0], maps[0, 3] = 0.7, math.inf, -1.0
    peaks = find_peaks(maps)
    assert peaks.cell.tolist() == [[-1, -1, -1, -1]]
    assert peaks.value[0].tolist() == [0.0, pytest.approx(0.7), -math.inf, -1.0]


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 0, 4)])
def test_odd_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"give \(B, F, h, w\)"):
        find_peaks(torch.zeros(shape))


def test_points_are_receptive_field_centres():
    """VGG-16's layer 14 in the authors' code, there from 1: 8.5 + 16 (i - 1); a map of 2 rows and 3 columns."""
    grid = Grid(Axis(2, 100, 7.5, 16.0), Axis(3, 224, 3.5, 8.0))
    assert cell_points(grid).tolist() == [[3.5, 7.5], [11.5, 7.5], [19.5, 7.5], [3.5, 23.5], [11.5, 23.5], [19.5, 23.5]]
    points = peak_points(torch.tensor([[4, -1]]), grid)
    assert points[0, 0].tolist() == [11.5, 23.5]
    assert points[0, 1].isnan().all()


def test_equal_peaks_go_to_the_lower_row():
    value = torch.tensor([[1.0], [2.0], [2.0], [2.0], [0.5]])
    rows, valid = top_images(value, torch.tensor([[True], [False], [True], [True], [True]]), 9)
    assert rows[valid].tolist() == [2, 3, 0, 4]
    assert valid[:, 0].tolist() == [True, True, True, True, False]


GENERATOR = torch.Generator().manual_seed(0)
PLACES = torch.rand(50, 1, 2, generator=GENERATOR, dtype=torch.float64) * 100
ALL = torch.ones(50, 1, dtype=torch.bool)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (-40.0, 13.0)])
def test_a_follower_has_one(offset):
    result = displacement(PLACES + torch.tensor(offset), PLACES, ALL)
    assert result.correlation.item() == pytest.approx(1, abs=1e-12)
    assert result.r2.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("place", [(0.1, 1 / 3), (-7.0, 1e6 / 7)])
def test_a_constant_has_zero(place):
    """At places whose mean is not exact: what rounding leaves must not be correlated."""
    still = torch.tensor(place, dtype=torch.float64).expand_as(PLACES)
    result = displacement(still, PLACES, ALL)
    assert (result.correlation.item(), result.r2.item()) == (0.0, 0.0)


def test_what_moves_otherwise_has_less():
    away = displacement(-PLACES, PLACES, ALL)
    assert away.correlation.item() == pytest.approx(-1, abs=1e-12)
    assert away.r2.item() == pytest.approx(-3, abs=1e-12)
    half = displacement(PLACES / 2, PLACES, ALL)
    assert half.correlation.item() == pytest.approx(1, abs=1e-12)
    assert half.r2.item() == pytest.approx(0.75, abs=1e-12)
    other = PLACES[torch.randperm(50, generator=GENERATOR)]
    assert displacement((PLACES + other) / 2, PLACES, ALL).correlation.item() == pytest.approx(0.7, abs=0.15)
    unrelated = displacement(other, PLACES, ALL)
    assert abs(unrelated.correlation.item()) < 0.3
    assert unrelated.r2.item() == pytest.approx(-1, abs=0.5)


def test_a_landmark_that_never_moves_or_is_seen_once():
    still = torch.full_like(PLACES, 0.1)
    assert all(value.isnan().all() for value in displacement(PLACES, still, ALL))
    once = torch.zeros_like(ALL)
    once[3] = True
    assert all(value.isnan().all() for value in displacement(PLACES, PLACES, once))


def test_images_that_do_not_count_change_nothing():
    other = PLACES.flip(0).clone()
    valid = ALL.clone()
    valid[40:] = False
    expected = displacement(other[:40], PLACES[:40], ALL[:40])
    other[40:] = math.nan
    result = displacement(other, PLACES, valid)
    assert result.correlation.item() == pytest.approx(expected.correlation.item(), abs=1e-12)
    assert result.r2.item() == pytest.approx(expected.r2.item(), abs=1e-12)
