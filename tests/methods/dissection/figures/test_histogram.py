import pytest

from lightning_interp.methods.dissection.figures.histogram import iou_histogram
from tests.helpers.results import counted_layer


def test_counts_and_moments_by_hand():
    # IoU 0.25 (twice), 50/150 and 4/196; the constant unit is left out.
    found = [[40, 0, 0, 0], [0, 40, 0, 0], [50, 0, 0, 0], [4, 0, 0, 0], [90, 0, 0, 0]]
    layer = counted_layer(found, [[0] * 4] * 5, status=["ok"] * 4 + ["constant"])
    bins, chance = iou_histogram(layer)
    assert bins.edges[[0, 1, -1]].tolist() == [0.0, 0.01, 0.34]
    assert {i: int(c) for i, c in enumerate(bins.counts) if c} == {2: 1, 25: 2, 33: 1}
    assert (bins.minimum, bins.maximum) == (4 / 196, 50 / 150)
    assert bins.total == pytest.approx(0.5 + 1 / 3 + 4 / 196)
    assert bins.squares == pytest.approx(0.125 + 1 / 9 + (4 / 196) ** 2)
    assert chance.counts[0] == chance.counts.sum() == 4


def test_a_perfect_unit_is_counted():
    bins, _ = iou_histogram(counted_layer([[100, 0, 0, 0]], [[0] * 4]))
    assert bins.edges[-1] == 1.0
    assert bins.counts[-1] == 1


def test_a_layer_without_a_scored_unit_has_an_empty_histogram():
    bins, _ = iou_histogram(counted_layer([[1, 0, 0, 0]], [[0] * 4], status=["constant"]))
    assert bins.counts.sum() == 0
    assert (bins.minimum, bins.maximum, bins.total) == (0, 0, 0)
