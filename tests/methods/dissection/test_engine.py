"""The engine against the dense reference, for every option, batch size, order, budget, and hostile activations."""

import dataclasses
import itertools
import math
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_interp.data import RenderedFaces
from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.methods.dissection.engine import Dissector, dissect
from lightning_interp.methods.dissection.options import make_options
from tests.helpers.models import small_cnn
from tests.helpers.probes import RandomProbe
from tests.helpers.replay import Replay, ReplayProbe
from tests.methods.dissection.reference.dissection import activations, dissect_dense, labels_dense

GENEROUS = 2**30


def assert_equal(layer, expected):
    assert np.array_equal(layer.thresholds, expected["thresholds"])
    for name, tallies in (("real", layer.tallies), ("chance", layer.chance)):
        for field in dataclasses.fields(tallies):
            assert np.array_equal(getattr(tallies, field.name), expected[name][field.name]), (name, field.name)


def assert_same(one, two):
    """Two dissections of a layer, to the last bit."""
    assert np.array_equal(one.thresholds, two.thresholds, equal_nan=True)
    assert one.status == two.status
    for a, b in ((one.tallies, two.tallies), (one.chance, two.chance), (one.top, two.top)):
        for field in dataclasses.fields(a):
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


def replay(maps, probe=None, **options):
    probe = probe or ReplayProbe(len(maps))
    return dissect(Replay(maps), probe, ["layer"], **{"batch_size": 4, "quantile": 0.03} | options)["layer"]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OPTIONS = list(itertools.product(["low", "upsampled"], ["cell", "zero_pad", "receptive_field"], ["category", "all"]))


@pytest.mark.parametrize(("quantile_on", "upsample", "images"), OPTIONS)
@pytest.mark.parametrize("budget", [GENEROUS, 0])
def test_equal_to_dense_reference(quantile_on, upsample, images, budget):
    probe, model = RandomProbe(), small_cnn()
    options = {"quantile": 0.03, "quantile_on": quantile_on, "upsample": upsample}
    result = dissect(model, probe, ["1", "2"], batch_size=8, byte_budget=budget, area_images=images, **options)
    for name, layer in result.layers.items():
        acts = activations(model, model.get_submodule(name), probe)
        assert_equal(layer, dissect_dense(acts, probe, anchors=layer.anchors, images=images, **options))


@pytest.mark.parametrize("preset", ["cvpr2017", "pnas2020"])
@pytest.mark.parametrize(("batch_size", "budget"), [(4, GENEROUS), (8, 3000), (37, GENEROUS), (64, 0)])
def test_presets_at_any_batch_size_and_budget(preset, batch_size, budget):
    probe, model = RandomProbe(), small_cnn()
    options = dataclasses.asdict(make_options(preset))
    del options["iou_threshold"]
    layer = dissect(model, probe, ["2"], preset=preset, batch_size=batch_size, byte_budget=budget)["2"]
    assert_equal(layer, dissect_dense(activations(model, model[2], probe), probe, **options))


@pytest.mark.parametrize("mask_size", [(24, 24), (6, 18), (3, 3), (1, 1)])
@pytest.mark.parametrize("upsample", ["cell", "zero_pad"])
def test_mask_size_other_than_the_probes(mask_size, upsample):
    probe, model = RandomProbe(11), small_cnn()
    options = {"quantile": 0.03, "upsample": upsample, "mask_size": mask_size}
    layer = dissect(model, probe, ["2"], batch_size=4, **options)["2"]
    assert_equal(layer, dissect_dense(activations(model, model[2], probe), probe, **options))


@pytest.mark.parametrize("most", [2, 10, 36, 37, 100])
def test_max_samples_are_spread_evenly(most):
    probe, model = RandomProbe(), small_cnn()
    result = dissect(model, probe, ["2"], batch_size=8, max_samples=most, quantile=0.03)
    indices = [i * 37 // min(most, 37) for i in range(min(most, 37))]
    assert result.num_images == len(indices)
    expected = dissect_dense(activations(model, model[2], probe, indices), probe, indices, quantile=0.03)
    assert_equal(result["2"], expected)


@pytest.mark.parametrize("num_images", [1, 2, 3])
@pytest.mark.parametrize("preset", ["cvpr2017", "pnas2020"])
def test_fewer_images_than_a_batch(num_images, preset):
    maps, probe = noise(num_images, 5, 6, 6), ReplayProbe(num_images)
    layer = replay(maps, probe, batch_size=8, preset=preset, quantile=0.03)
    options = dataclasses.asdict(make_options(preset, quantile=0.03))
    del options["iou_threshold"]
    assert_equal(layer, dissect_dense(maps, probe, **options))
    if num_images == 1:
        assert not layer.chance.intersection.any()


@pytest.mark.parametrize("budget", [GENEROUS, 3000, 0])
@pytest.mark.parametrize("quantile_on", ["low", "upsampled"])
@pytest.mark.parametrize("upsample", ["cell", "zero_pad"])
def test_ties(quantile_on, upsample, budget):
    """Few distinct values: whole numbers, a plateau as of ReLU6, units that are never or hardly ever on."""
    maps = torch.stack(
        [
            noise(37, 6, 6).mul(2).round(),
            noise(37, 6, 6, seed=1).mul(5).clamp(0, 6),
            torch.zeros(37, 6, 6),
            (noise(37, 6, 6, seed=2) > 3).float(),
            noise(37, 6, 6, seed=3) - 9,  # negative everywhere: a zero border is above the threshold
            torch.full((37, 6, 6), -0.0),
        ],
        1,
    )
    options = {"quantile_on": quantile_on, "upsample": upsample, "quantile": 0.1}
    layer = replay(maps, byte_budget=budget, **options)
    assert_equal(layer, dissect_dense(maps, ReplayProbe(37), **options))
    assert layer.status == ("ok", "ok", "constant", "ok", "ok", "constant")


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 5), (24, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_shapes_and_types_of_maps(shape, dtype):
    """Maps are read as float32 whatever the network computes in."""
    maps = noise(9, 3, *shape).to(dtype)
    layer = replay(maps, quantile=0.1)
    # Mask pixels that lie between anchors at thirds or fifths are rounded in another order by the reference, but no
    # threshold of this seed falls that close to one.
    assert_equal(layer, dissect_dense(maps.float(), ReplayProbe(9), quantile=0.1))


@pytest.mark.parametrize("mask", [(12, 12), (10, 14)])
def test_equals_brute_force_with_torchs_own_interpolation(mask):
    maps, probe = noise(13, 4, 5, 5), ReplayProbe(13)
    layer = replay(maps, probe, mask_size=mask, quantile=0.02)
    dense = torch.nn.functional.interpolate(maps.double(), size=mask, mode="bilinear", align_corners=False)
    threshold = np.quantile(maps.double().transpose(0, 1).flatten(1).numpy(), 0.98, axis=1)
    assert np.array_equal(layer.thresholds, threshold)
    for unit, concept in itertools.product(range(4), range(len(probe.concepts))):
        category = probe.concepts[concept].category
        intersection = area = truth = 0
        for i in range(13):
            masks = torch.from_numpy(labels_dense(probe, i, mask))
            active = dense[i, unit] > threshold[unit]
            intersection += int((active & masks[concept]).sum())
            truth += int(masks[concept].sum())
            if any(masks[c].any() for c, other in enumerate(probe.concepts) if other.category == category):
                area += int(active.sum())
        assert layer.tallies.intersection[unit, concept] == intersection
        assert layer.tallies.unit_area[unit, probe.categories.index(category)] == area
        assert layer.tallies.concept_area[concept] == truth
        union = area + truth - intersection
        iou = layer.iou[unit, concept]
        assert iou == intersection / union if truth else math.isnan(iou)


@pytest.mark.parametrize("quantile_on", ["low", "upsampled"])
def test_batches_and_budget_change_nothing_where_weights_round(quantile_on):
    """On a mask of ten pixels the weights are no exact fractions; a plateau makes rounding visible."""
    maps = noise(13, 4, 7, 7).mul(8).round().clamp(max=6) * 1.1
    runs = [
        replay(maps, mask_size=(10, 10), quantile_on=quantile_on, batch_size=b, byte_budget=budget, quantile=q)
        for q in (0.05,)
        for b, budget in ((2, GENEROUS), (4, 0), (5, 3000), (13, GENEROUS))
    ]
    for other in runs[1:]:
        assert_same(runs[0], other)


class Reordered(ReplayProbe):
    def __init__(self, order):
        super().__init__(len(order))
        self.order = order

    def image(self, index):
        return super().image(self.order[index])

    def labels(self, index):
        return super().labels(self.order[index])


@given(order=st.permutations(range(9)))
@settings(max_examples=10, deadline=None)
def test_order_of_images_changes_no_count(order):
    maps = noise(9, 3, 6, 6).mul(3).round()
    one, two = replay(maps, ReplayProbe(9)), replay(maps, Reordered(order))
    assert np.array_equal(one.thresholds, two.thresholds)
    for field in dataclasses.fields(one.tallies):
        assert np.array_equal(getattr(one.tallies, field.name), getattr(two.tallies, field.name))
    assert np.array_equal(one.iou, two.iou, equal_nan=True)


@given(units=st.permutations(range(4)), concepts=st.permutations(range(7)))
@settings(max_examples=10, deadline=None)
def test_permuting_units_or_concepts_permutes_results(units, concepts):
    maps = noise(9, 4, 6, 6)
    other_probe = ReplayProbe(9)
    other_probe.concepts = tuple(other_probe.concepts[c] for c in concepts)
    one, two = replay(maps), replay(maps[:, units], other_probe)
    assert np.array_equal(one.thresholds[units], two.thresholds)
    assert np.array_equal(one.iou[units][:, concepts], two.iou, equal_nan=True)
    assert np.array_equal(one.chance_iou[units][:, concepts], two.chance_iou, equal_nan=True)
    assert np.array_equal(one.top.index[units], two.top.index)


@given(seed=st.integers(0, 2**16), quantile=st.floats(0.001, 0.9), rounded=st.booleans())
@settings(max_examples=15, deadline=None)
def test_scores_stay_in_range(seed, quantile, rounded):
    maps = noise(7, 3, 4, 4, seed=seed)
    layer = replay(maps.round() if rounded else maps, quantile=quantile)
    for iou in (layer.iou, layer.chance_iou, layer.information_quality):
        known = iou[~np.isnan(iou)]
        assert ((known >= -1e-12) & (known <= 1 + 1e-12)).all()
    for tallies in (layer.tallies, layer.chance):
        assert (tallies.intersection <= tallies.concept_area).all()
        assert (tallies.intersection <= tallies.unit_area[:, layer.concept_category]).all()
        assert (tallies.unit_area <= tallies.pixels).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("quantile_on", ["low", "upsampled"])
@pytest.mark.parametrize("budget", [GENEROUS, 0])
def test_non_finite_units_are_named_and_harm_no_other(bad, quantile_on, budget):
    maps = noise(9, 3, 6, 6)
    broken = maps.clone()
    broken[6, 1, 2, 3] = broken[6, 1, 0, 0] = broken[8, 1, 5, 5] = bad
    clean = replay(maps, quantile_on=quantile_on, byte_budget=budget)
    with pytest.warns(UserWarning, match=r"^layer 'layer': 1 of 3 units gave NaN or infinite .* \(1\): not scored$"):
        layer = replay(broken, quantile_on=quantile_on, byte_budget=budget)
    assert layer.status == ("ok", "non-finite", "ok")
    assert layer.nonfinite.tolist() == [0, 3, 0]
    assert math.isnan(layer.thresholds[1])
    assert np.isnan(layer.iou[1]).all()
    assert not layer.tallies.intersection[1].any()
    assert layer.best.tolist() == [clean.best[0], -1, clean.best[2]]
    for unit in (0, 2):
        assert layer.thresholds[unit] == clean.thresholds[unit]
        assert np.array_equal(layer.tallies.intersection[unit], clean.tallies.intersection[unit])
        assert np.array_equal(layer.chance.intersection[unit], clean.chance.intersection[unit])
        assert np.array_equal(layer.top.index[unit], clean.top.index[unit])


def test_every_unit_broken():
    with pytest.warns(UserWarning, match=r"2 of 2 units gave NaN or infinite activations \(0, 1\)"):
        layer = replay(torch.full((5, 2, 4, 4), math.nan))
    assert layer.status == ("non-finite", "non-finite")
    assert (layer.top.index == -1).all()
    assert all(math.isfinite(value) for value in layer.scalars().values())
    assert layer.scalars()["invalid_units"] == 2


def test_late_rise():
    """A probe sorted by excitement: the last batches displace everything kept before, which no guess foresees."""
    maps = noise(37, 3, 6, 6) + torch.arange(37)[:, None, None, None]
    for ordered in (maps, maps.flip(0)):
        for quantile_on in ("low", "upsampled"):
            layer = replay(ordered, quantile_on=quantile_on)
            assert_equal(layer, dissect_dense(ordered, ReplayProbe(37), quantile=0.03, quantile_on=quantile_on))


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("preset", ["cvpr2017", "pnas2020"])
@pytest.mark.parametrize("budget", [GENEROUS, 0])
def test_dead_network(value, preset, budget):
    """Nothing exceeds the threshold in any batch, as in a diverged or a saturated network."""
    maps = torch.full((9, 2, 4, 4), value)
    layer = replay(maps, preset=preset, byte_budget=budget, upsample="cell")
    assert layer.status == ("constant", "constant")
    assert not layer.tallies.unit_area.any()
    assert layer.scalars()["detectors"] == 0


class Unlabelled(ReplayProbe):
    def labels(self, index):
        return Labels()


def test_probe_without_a_single_label():
    layer = replay(noise(5, 2, 4, 4), Unlabelled(5))
    assert np.isnan(layer.iou).all()
    assert layer.scalars()["detectors"] == 0
    assert layer.scalars()["max_iou"] == 0


def test_top_images_and_peaks_by_hand():
    maps = torch.zeros(4, 1, 3, 5)
    maps[0, 0, 1, 2] = 5.0
    maps[1, 0, 2, 4] = maps[1, 0, 0, 1] = 7.0  # the first of equals counts
    maps[3, 0, 0, 0] = 5.0  # as strong as image 0, which comes first
    top = replay(maps, top_k=3, batch_size=3).top
    assert top.index.tolist() == [[1, 0, 3]]
    assert top.score.tolist() == [[7.0, 5.0, 5.0]]
    assert top.peak.tolist() == [[[0, 1], [1, 2], [0, 0]]]
    assert np.array_equal(top.maps[0], maps[[1, 0, 3], 0].numpy())


class Colours(ProbeSet):
    """Blocks of red, green and grey."""

    mask_size = (16, 16)
    concepts = (Concept(1, "red", "color"), Concept(2, "green", "color"), Concept(5, "grey", "color"))

    def __len__(self):
        return 24

    def blocks(self, index):
        coarse = torch.rand(4, 4, generator=torch.Generator().manual_seed(index))
        return (coarse > 0.85).int() + (coarse > 0.93).int()  # 0 grey (most), 1 green, 2 red

    def image(self, index):
        paint = torch.tensor([[90, 90, 90], [10, 200, 10], [200, 10, 10]], dtype=torch.uint8)
        return paint[self.blocks(index)].permute(2, 0, 1).repeat_interleave(4, 1).repeat_interleave(4, 2)

    def labels(self, index):
        numbers = torch.tensor([5, 2, 1])[self.blocks(index)]
        return Labels({"color": numbers.repeat_interleave(4, 0).repeat_interleave(4, 1)})


class ByIndex(Colours):
    def image(self, index):
        return torch.full((3, 2, 2), index, dtype=torch.uint8)


def test_planted_detector_is_found_and_a_null_unit_is_not():
    """1x1 convolutions that compute "red minus green" and the reverse; a dead one; one that fires at random."""
    net, probe = nn.Conv2d(3, 3, 1, bias=False), Colours()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]])[:, :, None, None])
        maps = net(torch.stack([probe.image(i) for i in range(24)]) / 255.0)
    layer = dissect(nn.Sequential(net), probe, ["0"], batch_size=8, quantile=0.1)["0"]
    assert layer.status == ("ok", "ok", "constant")
    assert [layer.concepts[b].name for b in layer.best[:2]] == ["red", "green"]
    assert layer.best_iou[0] > 0.99
    assert layer.best_iou[1] > 0.99
    assert layer.is_detector.tolist() == [True, True, False]
    assert layer.beats_chance.tolist() == [True, True, False]

    mixed = torch.cat([maps[:, :2], noise(24, 1, 16, 16)], 1)
    layer = replay(mixed, ByIndex(), quantile=0.1)
    rare = [0, 1]  # red and green; grey covers nearly everything, so noise falls on it mostly
    assert (layer.iou[:2, rare].max(1) > 0.99).all()
    assert (layer.iou[2, rare] < 0.08).all()
    assert layer.beats_chance.tolist() == [True, True, False]


class OneConcept(ReplayProbe):
    def __init__(self, num_images):
        super().__init__(num_images)
        self.concepts = (Concept(2, "cat", "object"),)

    def labels(self, index):
        plane = super().labels(index).planes["object"]
        return Labels({"object": torch.where(plane == 2, 2, 0)})


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (4, 4)])
def test_one_unit_or_one_concept(units, top_k, shape):
    maps, probe = noise(7, units, *shape), OneConcept(7)
    layer = replay(maps, probe, top_k=top_k, quantile=0.2)
    assert_equal(layer, dissect_dense(maps, probe, quantile=0.2))
    assert layer.iou.shape == layer.tallies.unit_area.shape == (units, 1)
    assert layer.top.maps.shape == (units, top_k, *shape)
    assert np.array_equal(layer.top.index[:, 0], maps.amax((2, 3)).argmax(0).numpy())
    assert layer.scalars()["invalid_units"] == 0


class Flaky(ReplayProbe):
    """Image 3 can be read once (after the look at the first image), then no more."""

    def __init__(self, num_images, good_reads):
        super().__init__(num_images)
        self.good_reads = good_reads

    def image(self, index):
        if index == 3:
            self.good_reads -= 1
            if self.good_reads < 0:
                raise OSError("gone")
        return super().image(index)


@pytest.mark.parametrize("budget", [GENEROUS, 0])
def test_skipped_images_count_nowhere(budget):
    maps = noise(9, 2, 6, 6)
    with pytest.raises(OSError, match="gone"):
        replay(maps, Flaky(9, 0), byte_budget=budget)
    options = {"batch_size": 4, "quantile": 0.03, "byte_budget": budget, "on_bad_image": "skip"}
    with pytest.warns(UserWarning, match=r"^left out: 1 of 9 images .* image 3: OSError: gone$"):
        result = dissect(Replay(maps), Flaky(9, 0), ["layer"], **options)
    kept = [i for i in range(9) if i != 3]
    assert result.num_images == 8
    assert result.settings["num_skipped"] == 1
    assert_equal(result["layer"], dissect_dense(maps[kept], ReplayProbe(9), kept, quantile=0.03))


def test_image_lost_between_two_passes_is_an_error():
    """Its areas are in the totals already; to leave it out of the second pass alone would give wrong scores."""
    with pytest.raises(OSError, match="gone"):
        replay(noise(9, 2, 6, 6), Flaky(9, 1), byte_budget=0, on_bad_image="skip")


def test_no_readable_image():
    class Gone(ReplayProbe):
        def image(self, index):
            raise OSError("gone")

    with pytest.raises(DatasetError, match="no image of the probe set can be read"):
        replay(noise(3, 2, 6, 6), Gone(3), on_bad_image="skip")


def test_model_in_double_precision():
    probe, model = RandomProbe(7), small_cnn().double()
    layer = dissect(model, probe, ["2"], batch_size=7, quantile=0.03)["2"]
    with torch.no_grad():
        acts = model[:3](torch.stack([probe.image(i) for i in range(7)]).double()).float()
    assert_equal(layer, dissect_dense(acts, probe, quantile=0.03))


def test_second_dissection_is_the_first_and_reads_no_label_again():
    reads = []

    class Counting(RandomProbe):
        def labels(self, index):
            reads.append(index)
            return super().labels(index)

    dissector = Dissector(Counting(9), ["2"], batch_size=4)
    model = small_cnn()
    first, second = dissector(model), dissector(model)
    assert sorted(reads) == list(range(9))
    assert_same(first["2"], second["2"])


def test_stop_and_progress():
    seen = []
    dissector = Dissector(RandomProbe(9), ["2"], batch_size=4)
    assert dissector(small_cnn(), progress=lambda done, total: seen.append((done, total))) is not None
    assert seen == [(4, 9), (8, 9), (9, 9)]
    assert dissector(small_cnn(), should_stop=lambda: True) is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"byte_budget": -1}, "byte_budget must be at least 0, got -1"),
        ({"on_bad_image": "ignore"}, "on_bad_image must be 'raise' or 'skip', got 'ignore'"),
        ({"preset": "cvpr"}, "unknown preset 'cvpr'"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        dissect(small_cnn(), RandomProbe(3), ["2"], **option)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 0}, "empty"),
        ({"concepts": ()}, "no concepts"),
        ({"concepts": (Concept(0, "none", "object"),)}, "at least 1"),
        ({"concepts": (Concept(2, "cat", "object"), Concept(2, "dog", "object"))}, "must be different"),
    ],
)
def test_malformed_probe_sets(change, message):
    probe = RandomProbe(3)
    for name, value in change.items():
        setattr(probe, name, value)
    with pytest.raises(DatasetError, match=message):
        dissect(small_cnn(), probe, ["2"])


def test_a_loader_that_hangs_is_given_up():
    class Hangs(ReplayProbe):
        def labels(self, index):
            if index == 2:
                time.sleep(30)
            return super().labels(index)

    with pytest.raises(RuntimeError, match="timed out after 1"):
        replay(noise(4, 2, 4, 4), Hangs(4), num_workers=1, batch_size=2, loader_timeout=1.0)


@pytest.mark.parametrize(("quantile_on", "budget"), [("low", 2**30), ("upsampled", 2**30), ("low", 0)])
def test_slices_of_a_batch_change_nothing(monkeypatch, quantile_on, budget):
    probe, model = RandomProbe(11), small_cnn()
    options = {"quantile": 0.03, "quantile_on": quantile_on}
    whole = dissect(model, probe, ["2"], batch_size=4, **options)["2"]
    # Three images of 6 x 6 x 6 values at a time, so that slices and batches end at different places.
    monkeypatch.setattr("lightning_interp.probing.cells._VALUES_AT_A_TIME", 3 * 216)
    sliced = dissect(model, probe, ["2"], batch_size=4, byte_budget=budget, **options)["2"]
    expected = dissect_dense(activations(model, model.get_submodule("2"), probe), probe, **options)
    for layer in (whole, sliced):
        assert_equal(layer, expected)
    assert np.array_equal(whole.top.index, sliced.top.index)


def test_probe_must_be_a_probe_set():
    with pytest.raises(DatasetError, match="probe must be a ProbeSet, got list"):
        dissect(small_cnn(), [1, 2], ["2"])


class RedAndNoise(nn.Module):
    """Unit 0 is red minus the other colours; unit 1 is noise that has not seen the image."""

    def __init__(self):
        super().__init__()
        self.units = nn.Identity()

    def forward(self, images):
        red = images[:, :1] - images[:, 1:2] - 0.5 * images[:, 2:]
        noise = torch.rand(red.shape, generator=torch.Generator().manual_seed(0))
        return self.units(torch.cat([red, noise], 1))


def test_rendered_concept_is_found_by_a_planted_unit_and_not_by_a_null_one():
    layer = dissect(RedAndNoise(), RenderedFaces(100, normalize=None), ["units"], quantile=0.02)["units"]
    assert (layer.concepts[layer.best[0]].name, layer.concepts[layer.best[0]].category) == ("red", "color")
    assert layer.best_iou[0] > 0.4
    assert layer.is_detector.tolist() == layer.beats_chance.tolist() == [True, False]
    assert layer.best_iou[1] < 0.03


def test_maps_too_large_for_a_batch_are_refused_with_the_figure(monkeypatch):
    # By name in sys.modules: the package binds the function of that name over the module.
    monkeypatch.setattr(sys.modules["lightning_interp.probing.engine"], "LARGEST_BATCH", 0.1)
    # 6 units of 6 x 6 values of 4 bytes: a million images are 0.8 GiB.
    with pytest.raises(LayerError, match=r"layer '2' gives 0\.8 GiB .* a batch of 1000000 images.* lower batch_size"):
        dissect(small_cnn(), RandomProbe(4), ["2"], batch_size=1_000_000)
    assert dissect(small_cnn(), RandomProbe(4), ["2"], batch_size=4).num_images == 4
