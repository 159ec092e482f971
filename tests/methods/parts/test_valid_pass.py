"""Associations counted from kept cells: those of whole maps, in any partition and with any memory."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.part_overlap import IOU_THRESHOLD, part_interpretability, part_ious, valid_pixels
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.parts.valid_pass import PartLabels, ValidPass
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sums import Sums
from tests.reference.part_overlap import bilinear_regions, interpretability, thresholds_of

IMAGES, FILTERS, PARTS, SIZE = 9, 3, 2, (16, 24)
GRID = Grid(Axis.cells(4, SIZE[0]), Axis.cells(6, SIZE[1]))
MAPS = torch.rand(IMAGES, FILTERS, 4, 6, generator=torch.Generator().manual_seed(0)) ** 8
MASKS = torch.zeros(IMAGES, PARTS, *SIZE, dtype=torch.bool)
for image in range(IMAGES):
    y, x = divmod(int(MAPS[image, 0].argmax()), 6)
    MASKS[image, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = True
    MASKS[image, 1, 2:12, image : image + 9] = image % 3 > 0
OTHERS = MASKS.roll(1, 0)
CATEGORY = torch.arange(IMAGES) % 2


def valid_pass(budget=2**20):
    return ValidPass(
        Sums(),
        LayerInfo("layer", FILTERS, 4, 6),
        GRID,
        num_images=IMAGES,
        num_categories=2,
        num_parts=PARTS,
        byte_budget=budget,
        device=torch.device("cpu"),
        ranks=Ranks(),
    )


def run(batches, budget=2**20, maps=MAPS):
    own = valid_pass(budget)
    for batch in batches:
        own.update(maps[batch], torch.tensor(batch))
    own.settle(IMAGES)
    for number, batch in enumerate(batches):
        labels = PartLabels(MASKS[batch], OTHERS[batch], CATEGORY[batch])
        if own.overflowed:
            own.tally_maps(maps[batch], labels)
        else:
            own.tally(number, labels)
    return own


def counts(own, kind=""):
    return [own.sums[f"layer: {kind}{what}"] for what in ("associated", "images")]


def whole(maps, thresholds, masks):
    hits = part_ious(valid_pixels(maps, thresholds, GRID), masks, FILTERS) > IOU_THRESHOLD
    categories = torch.nn.functional.one_hot(CATEGORY, 2)
    associated = torch.einsum("nfk,nc->fck", hits.long(), categories)
    return associated, torch.einsum("nk,nc->ck", masks.flatten(2).any(2).long(), categories)


@given(
    order=st.permutations(range(IMAGES)),
    cuts=st.sets(st.integers(1, IMAGES - 1)),
    budget=st.sampled_from([2**20, 0]),
)
@settings(max_examples=20, deadline=None)
def test_any_partition_gives_what_whole_maps_give(order, cuts, budget):
    batches = [order[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), IMAGES])]
    own = run(batches, budget)
    assert own.overflowed == (budget == 0)
    torch.testing.assert_close(own.thresholds, thresholds_of(MAPS, 0.005), rtol=0, atol=1e-12)
    for kind, masks in (("", MASKS), ("chance ", OTHERS)):
        for got, expected in zip(counts(own, kind), whole(MAPS, own.thresholds, masks), strict=True):
            assert torch.equal(got, expected)


def test_counts_are_not_all_nothing():
    own = run([list(range(IMAGES))])
    associated, images = counts(own)
    assert associated[0, :, 0].sum() > counts(own, "chance ")[0][0, :, 0].sum()
    assert images.tolist() == [[5, 3], [4, 3]]
    assert {associated.dtype, images.dtype} == {torch.int64}


def test_scores_equal_whole_maps():
    """At a threshold that much exceeds, where filters have valid regions of all shapes."""
    maps = torch.rand(IMAGES, FILTERS, 4, 6, generator=torch.Generator().manual_seed(2))
    own, filter_category = valid_pass(), torch.tensor([0, 1, 1])
    own.thresholds = thresholds_of(maps, 0.4)
    for batch in ([3, 0, 1], [2, 4, 5, 6, 8], [7]):
        own.tally_maps(maps[batch], PartLabels(MASKS[batch], OTHERS[batch], CATEGORY[batch]))
    regions = bilinear_regions(maps, own.thresholds, SIZE)
    for kind, masks in (("", MASKS), ("chance ", OTHERS)):
        scores = part_interpretability(*counts(own, kind), filter_category)
        expected = interpretability(regions, masks, CATEGORY, filter_category, IOU_THRESHOLD)
        torch.testing.assert_close(scores.by_part, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
        assert 0 < scores.mean < 1


@pytest.mark.parametrize("budget", [2**20, 0])
def test_broken_filters_have_no_valid_region(budget):
    maps = MAPS.clone()
    maps[4, 1, 0, 0] = torch.nan
    own = run([[0, 1, 2, 3, 4], [5, 6, 7, 8]], budget, maps)
    assert own.thresholds.isnan().tolist() == [False, True, False]
    assert counts(own)[0][1].sum() == 0
    assert torch.equal(counts(own)[0][0], counts(run([list(range(IMAGES))]))[0][0])
