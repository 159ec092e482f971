"""Counts and top images of a layer: any partition of the images, in any order and with any memory, gives the same."""

import itertools
import math
from datetime import timedelta

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.functional.regions import concept_lookup, encode_regions, stack_regions
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sums import Sums
from lightning_interp.probing.tallies import LabelledBatch, LayerTallies, TopImages
from tests.helpers.probes import RandomProbe
from tests.helpers.ranks import run_ranks, values
from tests.methods.dissection.reference.dissection import dissect_dense

CPU = torch.device("cpu")

# --- Top images, against a sort of everything ------------------------------------------------------------------------


def winners(maps, batches, k, indices=None, ranks=None):
    sums = Sums(ranks)
    top = TopImages(sums, LayerInfo("layer", *maps.shape[1:]), k, CPU)
    indices = torch.arange(len(maps)) if indices is None else indices
    for rows in batches:
        top.update(maps[rows], maps[rows].amax((2, 3)), indices[rows])
    top.hand_in()
    return top.winners(sums.reduced())


@given(order=st.permutations(range(8)), cuts=st.sets(st.integers(1, 7)), rounded=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_equals_sorting_everything_for_any_split(order, cuts, rounded, seed):
    maps = torch.randn(8, 3, 2, 4, generator=torch.Generator().manual_seed(seed))
    maps = maps.round() if rounded else maps
    edges = [0, *sorted(cuts), 8]
    batches = [order[a:b] for a, b in itertools.pairwise(edges)]
    top = winners(maps, batches, 3)
    for unit in range(3):
        peaks = maps[:, unit].amax((1, 2))
        best = sorted(range(8), key=lambda i: (-peaks[i].item(), i))[:3]
        assert top.image[unit].tolist() == best
        assert top.score[unit].tolist() == peaks[best].tolist()
        assert torch.equal(top.maps[unit], maps[best, unit])
        flat = maps[best, unit].flatten(1)
        first = [row.tolist().index(row.max()) for row in flat]
        assert top.peak[unit].tolist() == [[p // 4, p % 4] for p in first]


def test_fewer_images_than_slots():
    top = winners(torch.rand(2, 2, 2, 2), [[0, 1]], 4)
    assert top.image[:, 2:].tolist() == [[-1, -1], [-1, -1]]
    assert (top.score[:, 2:] == -math.inf).all()
    assert sorted(top.image[0, :2].tolist()) == [0, 1]


def test_negative_scores_and_both_zeros():
    maps = torch.tensor([-3.0, -0.0, 0.0, -1e-40])[:, None, None, None]
    top = winners(maps, [[3, 2], [1, 0]], 4)
    assert top.image.tolist() == [[1, 2, 3, 0]]
    assert top.score.tolist() == [[0.0, 0.0, maps[3].item(), -3.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite_never_win(bad):
    maps = torch.zeros(3, 1, 1, 1)
    maps[1] = bad
    assert winners(maps, [[0, 1, 2]], 3).image.tolist() == [[0, 2, -1]]


def test_large_indices_keep_their_order():
    indices = torch.tensor([2**32 - 2, 5, 2**31])
    top = winners(torch.ones(3, 1, 1, 1), [[0, 1, 2]], 3, indices)
    assert top.image.tolist() == [[5, 2**31, 2**32 - 2]]


SHARES = ([[0, 3, 5], [1, 2, 4]], [[4], [0, 1, 2, 3, 5]], [[0, 1, 2, 3, 4, 5], []])


def few_maps():
    # Rounded, so that equal maxima on two processes have to be told apart.
    return torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(3)).mul(2).round()


def winners_on_rank(rank, world):
    ranks = Ranks.connect(timedelta(seconds=30))
    return [winners(few_maps(), [share[rank]] if share[rank] else [], 3, ranks=ranks) for share in SHARES]


@pytest.mark.ddp
@pytest.mark.timeout(90)
def test_winners_of_several_processes_merge():
    whole = winners(few_maps(), [list(range(6))], 3)
    for found in values(run_ranks(winners_on_rank, 2, timeout=60)):
        for merged in found:
            for one, other in zip(merged, whole, strict=True):
                assert torch.equal(one, other)


# --- Counts, against a loop over pixels ------------------------------------------------------------------------------

FEW, CONCEPTS, GROUPS = 6, 4, 2
ACTIVE = torch.rand(FEW, 3, 3, 3, generator=torch.Generator().manual_seed(9)) > 0.6
MEMBERS = torch.rand(FEW, GROUPS, generator=torch.Generator().manual_seed(8)) > 0.4


def planes(image):
    generator = torch.Generator().manual_seed(image)
    return {name: torch.randint(0, CONCEPTS + 1, (3, 3), generator=generator) for name in ("a", "b")}


REGIONS = [encode_regions(planes(i), {}, concept_lookup(range(1, CONCEPTS + 1)), (3, 3)) for i in range(FEW)]


def tallies(info, grid, budget=2**20, concepts=CONCEPTS, categories=GROUPS, images=FEW, **quantile):
    return LayerTallies(
        Sums(),
        info,
        grid,
        **{"quantile": 0.05, "quantile_on": "low"} | quantile,
        num_images=images,
        num_concepts=concepts,
        num_categories=categories,
        top_k=3,
        byte_budget=budget,
        device=CPU,
        ranks=Ranks(),
    )


def counted(batches):
    """Every value is a pixel of its own, and active or not."""
    layer = tallies(LayerInfo("layer", 3, 3, 3), Grid(Axis.cells(3, 3), Axis.cells(3, 3)))
    layer.thresholds = torch.full((3,), 0.5, dtype=torch.float64)
    for batch in batches:
        regions = stack_regions([REGIONS[i] for i in batch])
        layer.tally_maps(ACTIVE[batch].float(), LabelledBatch((regions, MEMBERS[batch]), None))
    return counts_of(layer)


def counts_of(layer, kind=""):
    return [layer.sums[f"layer: {kind}{what}"] for what in ("intersection", "area")]


def test_counts_equal_a_loop():
    intersection, area = counted([list(range(FEW))])
    for unit in range(3):
        for concept in range(CONCEPTS):
            shown = [torch.stack([p == concept + 1 for p in planes(i).values()]).any(0) for i in range(FEW)]
            assert intersection[unit, concept] == sum(int((ACTIVE[i, unit] & shown[i]).sum()) for i in range(FEW))
        for group in range(GROUPS):
            assert area[unit, group] == sum(int(ACTIVE[i, unit].sum()) for i in range(FEW) if MEMBERS[i, group])
    assert {intersection.dtype, area.dtype} == {torch.int64}


@given(order=st.permutations(range(FEW)), cuts=st.sets(st.integers(1, FEW - 1)))
@settings(max_examples=20, deadline=None)
def test_any_split_gives_the_same_sums(order, cuts):
    edges = [0, *sorted(cuts), FEW]
    split = counted([order[start:end] for start, end in itertools.pairwise(edges)])
    for one, other in zip(split, counted([list(range(FEW))]), strict=True):
        assert torch.equal(one, other)


def test_images_without_partners_count_nothing_by_chance():
    layer = tallies(LayerInfo("layer", 3, 3, 3), Grid(Axis.cells(3, 3), Axis.cells(3, 3)))
    layer.thresholds = torch.full((3,), 0.5, dtype=torch.float64)
    layer.tally_maps(ACTIVE.float(), LabelledBatch((stack_regions(REGIONS), MEMBERS), None))
    assert counts_of(layer)[1].any()
    assert not any(counts.any() for counts in counts_of(layer, "chance "))


@pytest.mark.parametrize("units", [1, 2])
def test_sums_of_one_unit_keep_their_shape(units):
    layer = tallies(LayerInfo("layer", units, 1, 1), Grid(Axis.cells(1, 1), Axis.cells(1, 1)), concepts=1, categories=1)
    layer.top.hand_in()
    totals = layer.sums.reduced()
    for kind in ("", "chance "):
        assert totals[f"layer: {kind}intersection"].shape == totals[f"layer: {kind}area"].shape == (units, 1)
    assert layer.top.winners(totals).maps.shape == (units, 3, 1, 1)


# --- A layer's whole pass, against maps that are upsampled whole -----------------------------------------------------

IMAGES, UNITS, LOW = 12, 3, (4, 5)
PROBE = RandomProbe(IMAGES)
BANKS = {images: LabelBank(LabelEncoder(PROBE, (12, 12)), images == "all") for images in ("all", "category")}
for bank in BANKS.values():
    bank.ensure(range(IMAGES))
PARTNERS = cyclic_partners(range(IMAGES))


def layer_pass(options, budget=2**20):
    border = "zero" if options["upsample"] == "zero_pad" else "hold"
    return tallies(
        LayerInfo("layer", UNITS, *LOW),
        Grid(*(Axis.cells(n, 12, border) for n in LOW)),
        budget,
        len(PROBE.concepts),
        len(PROBE.categories),
        IMAGES,
        quantile=options["quantile"],
        quantile_on=options["quantile_on"],
    )


def labelled(indices, bank):
    def of(images):
        return bank.batch(images), bank.members(images)

    return LabelledBatch(of(indices), of([PARTNERS[i] for i in indices]))


def dissect_batches(maps, batches, options, budget=2**20):
    layer, bank = layer_pass(options, budget), BANKS[options["images"]]
    for batch in batches:
        layer.update(maps[batch], torch.tensor(batch))
    layer.settle(len(maps))
    for number, batch in enumerate(batches):
        if layer.overflowed:
            layer.tally_maps(maps[batch], labelled(batch, bank))
        else:
            layer.tally(number, labelled(batch, bank))
    layer.top.hand_in()
    return layer


def noise(seed):
    return torch.randn(IMAGES, UNITS, *LOW, generator=torch.Generator().manual_seed(seed))


OPTIONS = [
    {"quantile": 0.05, "quantile_on": on, "upsample": up, "images": images}
    for on, up, images in itertools.product(("low", "upsampled"), ("cell", "zero_pad"), ("category", "all"))
]


@given(
    order=st.permutations(range(IMAGES)),
    cuts=st.sets(st.integers(1, IMAGES - 1)),
    options=st.sampled_from(OPTIONS),
    budget=st.sampled_from([2**20, 2000, 0]),
    rounded=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_partition_in_any_order(order, cuts, options, budget, rounded):
    maps = noise(0).mul(2).round() if rounded else noise(0)
    batches = [order[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), IMAGES])]
    layer = dissect_batches(maps, batches, options, budget)
    whole = dissect_batches(maps, [list(range(IMAGES))], options)
    assert torch.equal(layer.thresholds, whole.thresholds)
    for kind in ("", "chance "):
        for one, two in zip(counts_of(layer, kind), counts_of(whole, kind), strict=True):
            assert torch.equal(one, two)
    for one, two in zip(*(each.top.winners(each.sums.reduced()) for each in (layer, whole)), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[2]])
def test_on_maps_of_another_shape_than_square(options):
    layer = dissect_batches(noise(4), [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]], options)
    expected = dissect_dense(noise(4), PROBE, quantile=0.05, upsample=options["upsample"])
    assert layer.thresholds.tolist() == expected["thresholds"].tolist()
    assert counts_of(layer)[0].tolist() == expected["real"]["intersection"].tolist()
    assert counts_of(layer, "chance ")[1].tolist() == expected["chance"]["unit_area"].tolist()


def test_an_image_that_adds_nothing_changes_no_count():
    """At a fixed threshold: no concept, no activation above it, so neither A nor G nor I grows."""
    options = OPTIONS[0]
    maps = noise(1)
    counts = []
    for quiet in (False, True):
        layer = layer_pass(options)
        layer.thresholds = torch.full((UNITS,), 0.5, dtype=torch.float64)
        layer.tally_maps(maps, labelled(list(range(IMAGES)), BANKS["category"]))
        if quiet:
            layer.tally_maps(maps[:1].clamp(max=0.5), labelled([0], BANKS["all"]))
        counts.append([t.tolist() for t in (*counts_of(layer), *counts_of(layer, "chance "))])
    assert counts[0] == counts[1]


def test_budget_decides_whether_cells_are_kept():
    maps = noise(2)
    for budget, overflows in ((2**20, False), (0, True)):
        layer = layer_pass(OPTIONS[0], budget)
        layer.update(maps, torch.arange(IMAGES))
        assert layer.overflowed == overflows


def test_a_wrong_guess_leads_to_a_second_pass():
    """Excited images first: the guess from them is far above the final threshold."""
    maps = noise(3)
    maps[:2] += 100
    options = OPTIONS[0] | {"quantile": 0.5}
    batches = [[0, 1], *([i] for i in range(2, IMAGES))]
    layer = layer_pass(options)
    for batch in batches:
        layer.update(maps[batch], torch.tensor(batch))
    assert not layer.overflowed
    layer.settle(IMAGES)
    assert layer.overflowed
    expected = dissect_dense(maps, PROBE, quantile=0.5)
    again = dissect_batches(maps, batches, options)
    assert counts_of(again)[0].tolist() == expected["real"]["intersection"].tolist()


def test_maps_of_another_shape_are_refused():
    layer = layer_pass(OPTIONS[0])
    with pytest.raises(ValueError, match=r"layer 'layer' gave maps \(3, 4, 4\), \(3, 4, 5\) before"):
        layer.update(torch.zeros(2, 3, 4, 4), torch.arange(2))
