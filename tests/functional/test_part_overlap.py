"""Part interpretability and purity: against whole maps, planted detectors and blind filters."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.part_overlap import (
    IOU_THRESHOLD,
    VALID_SHARE,
    ValidPixels,
    cell_purity,
    covered_cells,
    part_interpretability,
    part_ious,
    part_purity,
    valid_pixels,
)
from lightning_interp.functional.peaks import Peaks
from lightning_interp.functional.quantile import upper_quantile
from lightning_interp.functional.upsampling import Axis, Grid
from tests.reference.part_overlap import bilinear_regions, iou, thresholds_of

SIZE = (20, 27)
GRID = Grid(Axis.cells(5, SIZE[0]), Axis.cells(6, SIZE[1]))


def random_maps(seed, number=3, filters=4):
    return torch.randn(number, filters, 5, 6, generator=torch.Generator().manual_seed(seed)).clamp(min=0)


def random_parts(seed, number=3, parts=2):
    """Rectangles, some of them absent."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(number, parts, *SIZE, dtype=torch.bool)
    for n in range(number):
        for k in range(parts):
            top, left = (int(torch.randint(0, length - 8, (), generator=generator)) for length in SIZE)
            masks[n, k, top : top + 8, left : left + 8] = torch.rand((), generator=generator) > 0.3
    return masks


def dense(valid, number, filters):
    regions = torch.zeros(number, filters, SIZE[0] * SIZE[1], dtype=torch.int64)
    regions.index_put_(tuple(valid), torch.ones_like(valid.pixel), accumulate=True)
    assert regions.max() <= 1  # every pixel once
    return regions.view(number, filters, *SIZE).bool()


@given(seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_valid_regions_equal_whole_maps(seed):
    maps = random_maps(seed)
    thresholds = thresholds_of(maps, 0.1)
    regions = dense(valid_pixels(maps, thresholds, GRID), 3, 4)
    assert torch.equal(regions, bilinear_regions(maps, thresholds, SIZE))


def test_thresholds_without_valid_regions():
    thresholds = torch.tensor([math.nan, 100.0, 0.0, math.nan], dtype=torch.float64)
    maps = random_maps(2)
    assert set(valid_pixels(maps, thresholds, GRID).unit.tolist()) == {2}
    none = valid_pixels(maps, thresholds + 100, GRID)
    assert part_ious(none, random_parts(0), 4).nan_to_num(nan=0.0).eq(0).all()


@given(seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_ious_equal_a_loop(seed):
    maps, parts = random_maps(seed), random_parts(seed)
    thresholds = thresholds_of(maps, 0.1)
    ious = part_ious(valid_pixels(maps, thresholds, GRID), parts, 4)
    regions = bilinear_regions(maps, thresholds, SIZE)
    for n in range(3):
        for f in range(4):
            for k in range(2):
                expected = iou(regions[n, f], parts[n, k]) if parts[n, k].any() else math.nan
                assert ious[n, f, k].item() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_iou_by_hand():
    """Part of pixels 0-3; a valid region of 2, 3 and 4: two of five."""
    parts = torch.zeros(1, 2, 2, 4, dtype=torch.bool)
    parts[0, 0, 0] = True
    pixels = torch.tensor([2, 3, 4])
    ious = part_ious(ValidPixels(torch.zeros_like(pixels), torch.ones_like(pixels), pixels), parts, 2)
    assert ious[0, :, 0].tolist() == [0.0, 0.4]
    assert ious[0, :, 1].isnan().all()


def test_share_of_valid_activations():
    maps = torch.rand(50, 2, 10, 10, generator=torch.Generator().manual_seed(0))
    thresholds = upper_quantile(maps.transpose(0, 1).flatten(1), 5000, VALID_SHARE)
    assert (maps > thresholds[:, None, None]).sum((0, 2, 3)).tolist() == [25, 25]


def test_scores_by_hand():
    """Filter 0 is of category 1, where 3 images show part 0 and none part 1; filter 2 is dead."""
    associated = torch.tensor([[[4, 4], [2, 0]], [[1, 3], [0, 0]], [[0, 0], [0, 0]]])
    images = torch.tensor([[4, 4], [3, 0]])
    scores = part_interpretability(associated, images, torch.tensor([1, 0, -1]))
    assert scores.by_part[0, 0].item() == 2 / 3
    assert scores.by_part[0, 1].isnan()
    assert scores.by_part[1].tolist() == [0.25, 0.75]
    assert scores.by_part[2].isnan().all()
    assert scores.part.tolist() == [0, 1, -1]
    assert scores.by_filter[:2].tolist() == [2 / 3, 0.75]
    assert scores.mean == pytest.approx((2 / 3 + 0.75) / 2)


def planted(images=60):
    """A part of 6 x 6 pixels that moves; filters on it, always in the middle, and anywhere."""
    generator = torch.Generator().manual_seed(0)
    grid = Grid(Axis.cells(8, 32), Axis.cells(8, 32))
    corner = torch.randint(0, 27, (images, 2), generator=generator)
    parts = torch.zeros(images, 1, 32, 32, dtype=torch.bool)
    for n, (y, x) in enumerate(corner.tolist()):
        parts[n, 0, y : y + 6, x : x + 6] = True
    on = (corner[:, 0] + 3) // 4 * 8 + (corner[:, 1] + 3) // 4
    cell = torch.stack([on, torch.full_like(on, 28), torch.randint(0, 64, (images,), generator=generator)], 1)
    maps = torch.nn.functional.one_hot(cell, 64).float().view(images, 3, 8, 8)
    return maps, cell, parts, grid


def test_planted_detector():
    maps, _, parts, grid = planted()
    thresholds = torch.full((3,), 0.25, dtype=torch.float64)
    valid = valid_pixels(maps, thresholds, grid)
    share = (part_ious(valid, parts, 3) > IOU_THRESHOLD).double().mean((0, 2))
    assert share[0] > 0.9
    assert share[1:].max() < 0.2
    # Against the parts of other images nothing is left.
    chance = (part_ious(valid, parts.roll(1, 0), 3) > IOU_THRESHOLD).double().mean((0, 2))
    assert chance.max() < 0.2


def test_covered_cells_by_hand():
    grid = Grid(Axis(2, 4, 0.5, 2.0), Axis(3, 6, -1.4, 3.0))
    parts = torch.zeros(1, 2, 4, 6, dtype=torch.bool)
    # Centres at rows 0.5 -> 1 and 2.5 -> 3, columns -1.4 -> 0 (the border), 1.6 -> 2 and 4.6 -> 5.
    parts[0, 0, 1, 0] = parts[0, 0, 3, 5] = True
    parts[0, 1, 0], parts[0, 1, 2], parts[0, 1, 1, 2] = True, True, True
    covered = covered_cells(parts, grid)
    assert covered[0].int().tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]]


def test_purity_of_planted_filters():
    _, cell, parts, grid = planted()
    peaks = Peaks(torch.rand(60, 3, generator=torch.Generator().manual_seed(1)) + 0.1, cell)
    covered, shown = covered_cells(parts, grid), parts.flatten(2).any(2)
    purity = part_purity(peaks, covered, shown, top_k=40)
    area = 36 / 32**2
    assert purity.by_part[0].item() == 1.0
    assert purity.by_part[2].item() < 0.2
    assert purity.area[:, 0].tolist() == pytest.approx([area] * 3, abs=0.01)
    assert (purity.best_constant[:, 0] >= purity.by_part[1, 0]).all()
    assert purity.best_constant.max() < 0.3
    figures = purity.summary()
    assert figures["purity"] == pytest.approx(purity.by_part.mean().item())
    assert figures["beats_constant"] < 1


def test_purity_equals_a_loop():
    generator = torch.Generator().manual_seed(4)
    value = torch.rand(12, 4, generator=generator)
    value[:, 2] = 0.0  # dead
    value[4, 3] = -math.inf  # not finite
    cell = torch.randint(-1, 30, (12, 4), generator=generator)
    parts = random_parts(4, number=12)
    covered, shown = covered_cells(parts, GRID), parts.flatten(2).any(2)
    purity = part_purity(Peaks(value, cell), covered, shown, top_k=5)
    for f in (0, 1):
        for k in (0, 1):
            images = [i for i in range(12) if cell[i, f] >= 0 and shown[i, k]]
            images = sorted(images, key=lambda i: -value[i, f].item())[:5]
            hits = [bool(covered[i, k, cell[i, f]]) for i in images]
            assert purity.by_part[f, k].item() == pytest.approx(sum(hits) / len(images))
            by_cell = [sum(bool(covered[i, k, c]) for i in images) / len(images) for c in range(30)]
            assert purity.best_constant[f, k].item() == pytest.approx(max(by_cell))
            assert purity.area[f, k].item() == pytest.approx(sum(by_cell) / 30)
    assert purity.by_part[2:].isnan().all()
    assert purity.part[2:].tolist() == [-1, -1]
    known = [max(row) for row in purity.by_part[:2].tolist()]
    assert purity.summary()["purity"] == pytest.approx(sum(known) / 2)


def test_purity_without_any_part():
    _, cell, parts, grid = planted()
    nothing = torch.zeros_like(parts)
    peaks = Peaks(torch.ones(60, 3), cell)
    purity = part_purity(peaks, covered_cells(nothing, grid), nothing.flatten(2).any(2))
    assert purity.part.tolist() == [-1, -1, -1]
    assert all(math.isnan(value) for value in purity.summary().values())


def test_several_cells_on_the_same_images():
    generator = torch.Generator().manual_seed(8)
    value = torch.rand(20, 3, generator=generator)
    cells = [torch.randint(-1, 30, (20, 3), generator=generator) for _ in range(2)]
    covered = torch.rand(20, 2, 30, generator=generator) < 0.3
    shown = torch.rand(20, 2, generator=generator) < 0.8
    one, two = cell_purity(cells, value, covered, shown, top_k=6)
    for k in range(2):
        for f in range(3):
            images = [i for i in value[:, f].argsort(descending=True).tolist() if shown[i, k] and cells[0][i, f] >= 0]
            hits = [[covered[i, k, max(cell[i, f], 0)].item() for i in images[:6]] for cell in cells]
            assert one.by_part[f, k].item() == pytest.approx(sum(hits[0]) / 6)
            assert two.by_part[f, k].item() == pytest.approx(sum(hits[1]) / 6)
    assert torch.equal(one.area, two.area)
