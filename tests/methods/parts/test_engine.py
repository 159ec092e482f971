"""The engine: filters whose scores are known, on one process and two, with little memory and bad images."""

import dataclasses
import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_interp import DatasetError, LayerError
from lightning_interp.data.readers.animal_part import AnimalPart
from lightning_interp.functional.pixels import cyclic_partners
from lightning_interp.methods.parts.engine import PartMeter, measure_parts
from lightning_interp.methods.parts.figures.table import filter_summaries
from lightning_interp.probing.ranks import Ranks
from tests.helpers.parts import FIXED, Filters, SpotProbe, fixed_deviation, spot_model
from tests.helpers.probes import RandomProbe
from tests.helpers.ranks import run_ranks, values

REAL = Path(__file__).parents[4] / "shared/data/animal_part"
RED, GREEN, STILL, DEAD = range(4)


def assert_same(result, other):
    """Equal to the bit, but for the wall time."""
    assert result.settings == other.settings
    for name, layer in result.layers.items():
        _assert_same(layer, other[name], name)


def _assert_same(one, two, where):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one.nan_to_num(nan=-9.0), two.nan_to_num(nan=-9.0)), where
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            _assert_same(getattr(one, field.name), getattr(two, field.name), f"{where}.{field.name}")
    elif isinstance(one, tuple):
        for a, b in zip(one, two, strict=True):
            _assert_same(a, b, where)
    else:
        assert one == two or (math.isnan(one) and math.isnan(two)), where


@pytest.fixture(scope="module")
def found():
    return measure_parts(spot_model(), SpotProbe(20), ["0"], batch_size=6)["0"]


def test_planted_instability_and_correlation(found):
    probe, scores = SpotProbe(20), found.location
    assert found.dead.tolist() == [False, False, False, True]
    assert scores.deviations.filter[RED, 0, 0] == 0
    assert scores.correlation[RED, 0, 0] == pytest.approx(1)
    assert scores.r2[GREEN, 0, 1] == pytest.approx(1)
    assert scores.assigned_part().tolist()[:2] == [0, 1]
    assert scores.deviations.filter[STILL, 0, 0] == pytest.approx(fixed_deviation(probe), abs=1e-12)
    assert scores.deviations.filter[STILL, 0, 1] == pytest.approx(fixed_deviation(probe, "green"), abs=1e-12)
    assert scores.correlation[STILL, 0].tolist() == [0, 0]
    assert scores.images[RED, 0].tolist() == [20, 15]
    # As fine as the image: the cell next to the landmark is the landmark.
    assert scores.deviations.oracle[STILL, 0, 0] == 0
    assert scores.deviations.filter[DEAD].isnan().all()


def test_planted_purity_and_interpretability(found):
    probe = SpotProbe(20)
    assert found.purity.by_part[RED, 0] == 1
    assert found.purity.by_part[GREEN].tolist()[1] == 1
    assert found.purity.area[RED, 0] == pytest.approx(2 / 256)
    # One pixel of the part's two: an IoU of one half.
    assert found.interpretability.by_part[RED, 0] == 1
    assert found.interpretability.by_part[GREEN, 1] == 1
    hit = [probe.labels(i).planes["part"][0][FIXED].item() == 7 for i in range(20)]
    assert found.interpretability.by_part[STILL, 0] == sum(hit) / 20
    assert found.interpretability.by_filter[DEAD].isnan()
    assert found.interpretability.mean == pytest.approx(found.interpretability.by_filter[:3].mean().item())


def chance_of(probe, images):
    """Share of images whose red pixel is on the red part of the one it is re-paired with."""
    partners = cyclic_partners(images)
    parts = {i: probe.labels(i).planes["part"][0] == 7 for i in images}
    return [parts[partners[i]][probe.places(i)["red"][::-1]].item() for i in images]


def test_chance_is_by_re_pairing_within_the_category(found):
    hits = chance_of(SpotProbe(20), list(range(20)))
    assert found.chance.by_part[RED, 0] == sum(hits) / 20
    probe = SpotProbe(300, categories=2, side=15)
    several = measure_parts(spot_model(), probe, ["0"], measures=["interpretability"])["0"]
    own = int(several.category[RED])
    hits = chance_of(probe, list(range(own, 300, 2)))
    assert several.chance.by_part[RED, 0] == sum(hits) / 150
    assert sum(hits) > 0


def test_top_images_and_their_peaks(found):
    probe = SpotProbe(20)
    # The spot is the brighter the lower the index.
    assert found.top.image[RED].tolist() == list(range(7))
    assert found.top.point[RED].tolist() == [list(map(float, probe.places(i)["red"])) for i in range(7)]
    assert found.top.image[GREEN].tolist() == [1, 2, 3, 5, 6, 7, 9]
    assert (found.top.image[DEAD] == -1).all()
    assert found.top.point[DEAD].isnan().all()


def test_categories_and_selectivity():
    probe = SpotProbe(24, categories=2)
    several = measure_parts(spot_model(), probe, ["0"])
    assert several["0"].location.deviations.filter.shape == (4, 2, 2)
    odd, even = (sum(1 - i / 1000 for i in range(first, 24, 2)) for first in (1, 0))
    assert several["0"].selectivity[RED] == pytest.approx(even / (odd + even), rel=1e-6)
    assert several["0"].category.tolist() == [0, 1, 0, -1]
    # The green spot is not seen on images 0, 4, 8...: half of the even ones.
    assert several["0"].interpretability.by_part[GREEN, 1] == 1
    assert several.scalars()["0/selectivity"] == pytest.approx(several["0"].selectivity[:3].mean().item())
    assert "0/selectivity" not in measure_parts(spot_model(), SpotProbe(6), ["0"]).scalars()
    rules = [measure_parts(spot_model(), probe, ["0"], rule=rule, measures=["location"]) for rule in ("least", "peak")]
    least, peak = (result.scalars()["0/instability"] for result in rules)
    assert least < peak


def test_receptive_fields_or_cells():
    net = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4, padding=0), nn.ReLU())
    meter = PartMeter(SpotProbe(4), ["1"])
    meter.describe(net)
    assert meter.image_grids["1"].rows.anchors == (1.5, 5.5, 9.5, 13.5)
    padded = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4, padding=2), nn.ReLU())
    meter.describe(padded)
    assert meter.image_grids["1"].columns.anchors == (-0.5, 3.5, 7.5, 11.5, 15.5)
    cells = PartMeter(SpotProbe(4), ["1"], upsample="cell")
    cells.describe(padded)
    assert cells.image_grids["1"].columns.anchors == pytest.approx([1.1, 4.3, 7.5, 10.7, 13.9])


def test_masks_of_another_size_than_the_image():
    probe = SpotProbe(4)
    probe.mask_size = (8, 8)
    meter = PartMeter(probe, ["0"])
    meter.describe(nn.Sequential(nn.Conv2d(3, 4, 4, stride=4)))
    # The centre of four pixels is that of two pixels of half the size.
    assert meter.grids["0"].rows.anchors == (0.5, 2.5, 4.5, 6.5)


@pytest.mark.parametrize("options", [{"byte_budget": 0}, {"batch_size": 5}, {"num_workers": 1}])
def test_memory_batches_and_workers_change_nothing(options):
    whole, other = (
        measure_parts(spot_model(), SpotProbe(23), ["0"], **({"batch_size": 8} | own))["0"] for own in ({}, options)
    )
    _assert_same(whole, other, "0")
    assert whole.interpretability.mean > 0


def test_samples_and_bad_images():
    sampled = measure_parts(spot_model(), SpotProbe(20), ["0"], max_samples=5)
    assert sampled.num_images == 5
    assert sampled["0"].top.image[RED, :5].tolist() == [0, 4, 8, 12, 16]
    whole = SpotProbe(8, broken=(2, 5))
    with pytest.raises(DatasetError, match=r"photo_2\.jpg"):
        measure_parts(spot_model(), whole, ["0"])
    with pytest.warns(UserWarning, match="left out: 2 of 8 images of the probe set; the first, image 2: DatasetError"):
        skipped = measure_parts(spot_model(), whole, ["0"], on_bad_image="skip")
    assert skipped.num_images == 6
    assert skipped.settings["num_skipped"] == 2
    assert skipped["0"].top.image[RED].tolist() == [0, 1, 3, 4, 6, 7]
    assert skipped["0"].location.images[RED, 0, 0] == 6
    assert skipped["0"].interpretability.by_part[RED, 0] == 1


class Breaking(nn.Module):
    """Filter 0 peaks on the red spot, 1 does but is NaN on bright images, 2 is NaN on all, 3 is dead."""

    def forward(self, x):
        maps = torch.stack([x[:, 0], x[:, 0], x[:, 0], 0 * x[:, 0]], 1)
        peak = x[:, 0].flatten(1).amax(1)
        maps[peak > 0.995, 1, 0, 0] = torch.nan
        maps[peak > 0, 2, 0, 0] = torch.nan
        return maps


def test_filters_with_nan_are_counted_and_not_scored():
    meter, probe = PartMeter(SpotProbe(12), ["0"]), SpotProbe(12)
    with pytest.warns(UserWarning, match=r"^layer '0': 2 of 4 filters gave NaN or infinite activations \(1, 2\)"):
        result = meter(nn.Sequential(Breaking()))
    found = result["0"]
    assert found.category.tolist() == [0, -1, -1, -1]
    assert found.dead.tolist() == [False, False, False, True]
    assert found.nonfinite.tolist() == [False, True, True, False]
    assert found.interpretability.by_filter.isnan().tolist() == [False, True, True, True]
    assert found.location.taken.tolist() == [True, False, False, False]
    assert found.purity.part.tolist() == [0, -1, -1, -1]
    assert [each.status for each in filter_summaries(result, found)] == ["ok", "non-finite", "non-finite", "dead"]
    scalars = result.scalars()
    assert (scalars["0/dead"], scalars["0/nonfinite"], scalars["0/undefined"]) == (1, 2, 0)
    alone = measure_parts(nn.Sequential(Filters()), probe, ["0"])["0"]
    assert scalars["0/instability"] == alone.location.by_filter().filter[RED]
    assert scalars["0/purity"] == alone.purity.by_part[RED, 0] == 1
    # It is said once: a second warning would be an error.
    meter(nn.Sequential(Breaking()))


def test_what_a_probe_set_lacks():
    with pytest.raises(DatasetError, match="no image of RandomProbe has a landmark of a part; RenderedFaces"):
        PartMeter(RandomProbe(3), ["0"], measures=["location"])
    assert PartMeter(RandomProbe(3), ["0"]).measures == ("purity", "interpretability")
    probe = SpotProbe(3)
    probe.concepts = probe.concepts[:1]
    assert PartMeter(probe, ["0"]).measures == ("location",)
    with pytest.raises(DatasetError, match="SpotProbe has no concept of category 'part'; RenderedFaces"):
        PartMeter(probe, ["0"], measures=["interpretability"])
    with pytest.raises(DatasetError, match="unknown part 'blue spot'"):
        PartMeter(SpotProbe(3), ["0"], parts=["blue spot"])
    with pytest.raises(DatasetError, match="unknown landmark 'blue'"):
        PartMeter(SpotProbe(3), ["0"], landmarks=["blue"])
    with pytest.raises(LayerError, match="unknown layer '7'"):
        measure_parts(spot_model(), SpotProbe(3), ["7"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"variant": "cvpr2019"}, "variant must be one of cvpr2018, aaai2018; got 'cvpr2019'"),
        ({"rule": "most"}, "rule must be one of least, peak"),
        ({"upsample": "zero_pad"}, "upsample must be one of receptive_field, cell"),
        ({"top_k": 1}, "top_k must be at least 2, got 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        PartMeter(SpotProbe(3), ["0"], **option)


def test_measures_that_are_none():
    with pytest.raises(DatasetError, match="unknown measure 'locatoin'; did you mean 'location'"):
        PartMeter(SpotProbe(3), ["0"], measures=["locatoin"])
    with pytest.raises(ValueError, match="measures is empty; give some of location, purity, interpretability"):
        PartMeter(SpotProbe(3), ["0"], measures=[])


def test_names_are_checked_even_where_they_do_not_count():
    with pytest.raises(DatasetError, match="unknown part 'red spott'; did you mean 'red spot'"):
        PartMeter(SpotProbe(3), ["0"], measures=["location"], parts=["red spott"])
    with pytest.raises(DatasetError, match="unknown landmark 'gren'; did you mean 'green'"):
        PartMeter(SpotProbe(3), ["0"], measures=["purity"], landmarks=["gren"])


@pytest.mark.parametrize("upsample", ["cell", "receptive_field"])
def test_maps_of_one_value_are_refused(upsample):
    net = nn.Sequential(nn.Conv2d(3, 4, 16), nn.ReLU())
    with pytest.raises(LayerError, match=r"layer '1' gives maps of one value.*choose an earlier layer"):
        measure_parts(net, SpotProbe(3), ["1"], upsample=upsample)


def test_names_choose_what_counts():
    result = measure_parts(spot_model(), SpotProbe(8), ["0"], landmarks=["green"], parts=["green spot"])
    assert (result.landmarks, result.parts) == (("green",), ("green spot",))
    assert result["0"].location.correlation.shape == (4, 1, 1)
    assert result["0"].interpretability.by_part[GREEN, 0] == 1


def on_rank(rank, world, budget):
    ranks = Ranks.connect(timedelta(seconds=30)) if world > 1 else Ranks()
    probe = SpotProbe(13, categories=2, broken=(6,))
    meter = PartMeter(probe, ["0"], batch_size=4, byte_budget=budget, on_bad_image="skip")
    return meter(spot_model(), ranks=ranks)


@pytest.mark.ddp
@pytest.mark.timeout(90)
@pytest.mark.parametrize("budget", [2**20, 0])
def test_two_processes_equal_one(budget):
    with pytest.warns(UserWarning, match="left out: 1 of 13 images"):
        alone = on_rank(0, 1, budget)
    for result in values(run_ranks(on_rank, 2, budget, timeout=60)):
        assert_same(result, alone)
        assert result.num_images == alone.num_images == 12


@pytest.mark.skipif(not REAL.exists(), reason="the annotated animals are not here")
def test_annotated_animals():
    probe = AnimalPart(REAL, size=(64, 64), mask_size=(32, 32))
    net = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU())
    result = measure_parts(net, probe, ["1"], max_samples=60)
    values = result.scalars()
    assert result.landmarks == ("head", "frontal_legs")
    # The order in which the references must come, whatever the network.
    assert values["1/oracle"] < values["1/best_constant"] < values["1/random"]
    assert values["1/oracle"] < values["1/centre"] < values["1/random"]
    assert values["1/oracle"] < values["1/instability"]
