"""One layer's pass by itself: any partition of the images into batches gives equal counts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.dissection.layer_pass import LabelledBatch, LayerPass
from lightning_interp.methods.dissection.options import DissectionOptions
from lightning_interp.probing.layers import LayerInfo
from tests.helpers.probes import RandomProbe
from tests.methods.dissection.reference.dissection import dissect_dense

IMAGES, UNITS, LOW = 12, 3, (4, 5)
PROBE = RandomProbe(IMAGES)
BANKS = {images: LabelBank(LabelEncoder(PROBE, (12, 12)), images == "all") for images in ("all", "category")}
for bank in BANKS.values():
    bank.ensure(range(IMAGES))
PARTNERS = cyclic_partners(range(IMAGES))


def layer_pass(options, budget=2**20):
    border = "zero" if options.upsample == "zero_pad" else "hold"
    return LayerPass(
        LayerInfo("layer", UNITS, *LOW),
        Grid(*(Axis.cells(n, 12, border) for n in LOW)),
        options,
        num_images=IMAGES,
        num_concepts=len(PROBE.concepts),
        num_categories=len(PROBE.categories),
        top_k=3,
        byte_budget=budget,
        device=torch.device("cpu"),
        sync={},
    )


def labelled(indices, bank):
    def of(images):
        return bank.batch(images), bank.members(images)

    return LabelledBatch(of(indices), of([PARTNERS[i] for i in indices]))


def dissect_batches(maps, batches, options, budget=2**20):
    layer, bank = layer_pass(options, budget), BANKS[options.images]
    for batch in batches:
        layer.update(maps[batch], torch.tensor(batch))
    layer.settle(len(maps), lambda t: t, lambda t: t)
    for number, batch in enumerate(batches):
        if layer.overflowed:
            layer.tally_maps(maps[batch], labelled(batch, bank))
        else:
            layer.tally(number, labelled(batch, bank))
    return layer


def noise(seed):
    return torch.randn(IMAGES, UNITS, *LOW, generator=torch.Generator().manual_seed(seed))


OPTIONS = [
    DissectionOptions(quantile=0.05, quantile_on=on, upsample=up, images=images)
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
    for name in ("agreement", "chance"):
        for one, two in zip(getattr(layer, name).compute(), getattr(whole, name).compute(), strict=True):
            assert torch.equal(one, two)
    for one, two in zip(layer.top.compute(), whole.top.compute(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[2]])
def test_on_maps_of_another_shape_than_square(options):
    layer = dissect_batches(noise(4), [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]], options)
    expected = dissect_dense(noise(4), PROBE, quantile=0.05, upsample=options.upsample)
    assert layer.thresholds.tolist() == expected["thresholds"].tolist()
    assert layer.agreement.intersection.tolist() == expected["real"]["intersection"].tolist()
    assert layer.chance.unit_area.tolist() == expected["chance"]["unit_area"].tolist()


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
        counts.append([t.tolist() for t in (*layer.agreement.compute(), *layer.chance.compute())])
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
    options = DissectionOptions(quantile=0.5)
    batches = [[0, 1], *([i] for i in range(2, IMAGES))]
    layer = layer_pass(options)
    for batch in batches:
        layer.update(maps[batch], torch.tensor(batch))
    assert not layer.overflowed
    layer.settle(IMAGES, lambda t: t, lambda t: t)
    assert layer.overflowed
    expected = dissect_dense(maps, PROBE, quantile=0.5)
    again = dissect_batches(maps, batches, options)
    assert again.agreement.intersection.tolist() == expected["real"]["intersection"].tolist()


def test_maps_of_another_shape_are_refused():
    layer = layer_pass(OPTIONS[0])
    with pytest.raises(ValueError, match=r"layer 'layer' gave maps \(3, 4, 4\), \(3, 4, 5\) before"):
        layer.update(torch.zeros(2, 3, 4, 4), torch.arange(2))
