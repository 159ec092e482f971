"""What is said of filters: by hand from a result."""

import math

import pytest
import torch
from torch import nn

from lightning_interp.methods.parts.engine import measure_parts
from lightning_interp.methods.parts.figures.table import (
    LOCATION_COLUMNS,
    PART_COLUMNS,
    filter_summaries,
    location_table,
    most_interpretable,
    part_table,
    steadiest,
)
from tests.helpers.parts import SpotProbe, fixed_deviation, spot_model

PROBE = SpotProbe(20)


@pytest.fixture(scope="module")
def result():
    return measure_parts(spot_model(), PROBE, ["0"], landmarks=["red"])


def test_filters_by_hand(result):
    red, green, still, dead = filter_summaries(result, result["0"])
    assert [each.filter for each in (red, green, still, dead)] == [0, 1, 2, 3]
    assert [each.status for each in (red, green, still, dead)] == ["ok", "ok", "ok", "dead"]
    assert (red.instability, red.landmark, red.interpretability, red.part) == (0, "red", 1, "red spot")
    assert red.correlation == pytest.approx(1)
    assert abs(red.correlation_chance) < 0.5
    assert (red.purity, red.pure_part, red.purity_chance) == (1, "red spot", pytest.approx(2 / 256))
    assert green.part == green.pure_part == "green spot"
    assert still.instability == pytest.approx(fixed_deviation(PROBE))
    assert still.instability >= still.best_constant
    assert still.correlation == 0
    assert dead.landmark is dead.part is dead.pure_part is None
    assert math.isnan(dead.instability + dead.correlation + dead.correlation_chance)
    assert math.isnan(red.selectivity)


def test_order_and_cells(result):
    summaries = filter_summaries(result, result["0"])
    assert steadiest(summaries, 9)[0].filter == 0
    assert len(steadiest(summaries, 9)) == 3
    assert [each.filter for each in most_interpretable(summaries, 2)] == [0, 1]
    rows = location_table(result, result["0"], 2)
    assert {len(row) for row in rows} == {len(LOCATION_COLUMNS)}
    assert rows[0][:2] == ("0", "0.000")
    assert rows[0][4:6] == ("red", "1.000")
    best = part_table(result, result["0"], 1)
    assert {len(row) for row in best} == {len(PART_COLUMNS)}
    assert best[0][:3] == ("0", "red spot", "1.000")
    assert best[0][-1] == ""


def test_what_was_not_measured_is_not_told():
    result = measure_parts(spot_model(), PROBE, ["0"], measures=["purity"])
    red = filter_summaries(result, result["0"])[0]
    assert red.purity == 1
    assert math.isnan(red.instability)
    assert math.isnan(red.interpretability)
    assert steadiest([red], 3) == most_interpretable([red], 3) == []


class Wide(nn.Module):
    """One filter: low all over images without a green spot, high at the red spot of the others."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, x):
        green = x[:, 1:2].amax((2, 3), keepdim=True) > 0
        return self.maps(torch.where(green, x[:, :1], 0.1 + 0.1 * x[:, :1]))


def test_two_categories_of_one_filter():
    """On half of the even images a filter is wide and low, on odd ones narrow and high."""
    probe = SpotProbe(24, categories=2)
    result = measure_parts(Wide(), probe, ["maps"], rule="peak")
    (wide,) = filter_summaries(result, result["maps"])
    assert (wide.category, wide.location_category) == (0, 1)
    scores = result["maps"].location
    part = result.landmarks.index(wide.landmark)
    assert wide.correlation == scores.correlation[0, 1, part]
    assert wide.instability == scores.by_filter("peak").filter[0]
    plain = measure_parts(spot_model(), probe, ["0"])
    assert [each.location_category for each in filter_summaries(plain, plain["0"])] == [0, 1, 0, None]
    no_location = measure_parts(spot_model(), probe, ["0"], measures=["purity"])
    assert filter_summaries(no_location, no_location["0"])[0].location_category is None
