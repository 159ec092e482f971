"""Sums of associations and rows of coverage: any split of the images gives the same."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.part_overlap import IOU_THRESHOLD, covered_cells, part_interpretability, valid_pixels
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.parts.overlap_sums import PartAssociations, PartCoverage
from lightning_interp.probing.values import computed
from tests.reference.part_overlap import bilinear_regions, interpretability, thresholds_of

IMAGES, FILTERS, PARTS, SIZE = 8, 3, 2, (16, 24)
GENERATOR = torch.Generator().manual_seed(2)
MAPS = torch.rand(IMAGES, FILTERS, 4, 6, generator=GENERATOR)
MASKS = torch.zeros(IMAGES, PARTS, *SIZE, dtype=torch.bool)
for image in range(IMAGES):
    MASKS[image, 0, image : image + 8, 4:14] = True
    MASKS[image, 1, 2:12, image : image + 9] = image % 3 > 0
CATEGORY = torch.tensor([0, 1, 1, 0, 1, 1, 0, 1])
GRID = Grid(Axis.cells(4, SIZE[0]), Axis.cells(6, SIZE[1]))
THRESHOLDS = thresholds_of(MAPS, 0.4)


def fill(batches):
    associations, coverage = PartAssociations(FILTERS, 2, PARTS), PartCoverage(IMAGES, PARTS, GRID)
    for batch in batches:
        rows = torch.tensor(batch)
        associations.update(valid_pixels(MAPS[rows], THRESHOLDS, GRID), MASKS[rows], CATEGORY[rows])
        coverage.update(MASKS[rows], rows)
    return associations, coverage


def read(associations, coverage):
    counts = computed(associations, (FILTERS, 2, PARTS), (2, PARTS))
    return *counts, *computed(coverage, (IMAGES, PARTS, 24), (IMAGES, PARTS))


def test_scores_equal_whole_maps():
    associated, images, covered, shown = read(*fill([list(range(IMAGES))]))
    filter_category = torch.tensor([0, 1, 1])
    scores = part_interpretability(associated, images, filter_category)
    regions = bilinear_regions(MAPS, THRESHOLDS, SIZE)
    expected = interpretability(regions, MASKS, CATEGORY, filter_category, IOU_THRESHOLD)
    torch.testing.assert_close(scores.by_part, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    assert 0 < scores.mean < 1
    assert images.tolist() == [[3, 0], [5, 5]]
    assert torch.equal(shown, MASKS.flatten(2).any(2))
    assert torch.equal(covered, covered_cells(MASKS, GRID))


@given(order=st.permutations(range(IMAGES)), cuts=st.sets(st.integers(1, IMAGES - 1)))
@settings(max_examples=15, deadline=None)
def test_any_split_gives_the_same(order, cuts):
    edges = [0, *sorted(cuts), IMAGES]
    parts = read(*fill([order[a:b] for a, b in itertools.pairwise(edges)]))
    for one, other in zip(parts, read(*fill([list(range(IMAGES))])), strict=True):
        assert torch.equal(one, other)


def test_states_are_integers_and_images_not_seen_show_nothing():
    associations, coverage = fill([[0, 1]])
    assert {associations.associated.dtype, associations.images.dtype} == {torch.int64}
    covered, shown = coverage.compute()
    assert not shown[2:].any()
    assert not covered[2:].any()
    coverage.reset()
    assert (coverage.coverage == -1).all()
