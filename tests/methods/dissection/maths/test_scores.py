import math

import pytest

from lightning_interp.methods.dissection.maths.scores import Match, UnitRow, layer_scores


def row(unit, **matches):
    """Matches given as category=(label, IoU in percent)."""
    return UnitRow(
        unit, {c: Match(label, truth=100, activation=iou, intersect=iou) for c, (label, iou) in matches.items()}
    )


def test_iou_by_hand():
    assert Match("eye", truth=10, activation=20, intersect=5).iou == 5 / 25
    assert math.isnan(Match("eye", 0, 0, 0).iou)
    assert Match("eye", 7, 7, 7).iou == 1.0


def test_both_rules():
    rows = [
        row(0, object=("cat", 50), part=("ear", 40)),  # counts once by top label, twice by category
        row(1, object=("cat", 60)),
        row(2, part=("ear", 30), object=("dog", 20)),
        row(3, object=("dog", 4)),  # exactly at the threshold: not above it
        row(4),
    ]
    scores = layer_scores(rows, ["object", "part", "scene"])
    assert (scores.units, scores.detectors, scores.unique_detectors, scores.unique_by_category) == (5, 3, 2, 3)
    assert scores.category_detectors == {"object": 3, "part": 2, "scene": 0}
    assert scores.category_unique == {"object": 2, "part": 1, "scene": 0}


def test_one_name_in_two_categories_is_two_concepts():
    rows = [row(0, object=("grass", 50)), row(1, texture=("grass", 50))]
    assert layer_scores(rows, ["object", "texture"]).unique_detectors == 2


def test_best_takes_the_first_of_equals_and_skips_nan():
    best = UnitRow(0, {"a": Match("none", 0, 0, 0), "b": Match("x", 10, 10, 5), "c": Match("y", 10, 10, 5)}).best
    assert best is not None
    assert best[0] == "b"
    assert UnitRow(0, {"a": Match("none", 0, 0, 0)}).best is None


@pytest.mark.parametrize(("threshold", "detectors"), [(0.0, 2), (0.1, 1), (0.5, 0)])
def test_threshold(threshold, detectors):
    rows = [row(0, object=("cat", 50)), row(1, object=("dog", 5)), row(2, object=("cow", 0))]
    assert layer_scores(rows, ["object"], threshold).detectors == detectors


def test_no_units():
    scores = layer_scores([], ["object"])
    assert (scores.units, scores.detectors, scores.unique_by_category) == (0, 0, 0)
