"""Everything derived from the counts, by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest

from lightning_interp.data.probe import Concept
from lightning_interp.methods.dissection.result import LayerDissection, Tallies
from tests.helpers.results import CONCEPTS, counted_layer, result_of

NONE = [[0, 0, 0, 0]]


def iou(shared):
    """Of 100 pixels against 100 pixels."""
    return shared / (200 - shared)


def test_iou_and_best_by_hand():
    layer = counted_layer([[50, 0, 20, 0], [0, 0, 0, 0], [5, 60, 60, 0]], NONE * 3)
    assert layer.iou[0].tolist() == [50 / 150, 0.0, 20 / 180, 0.0]
    assert layer.best.tolist() == [0, 0, 1]  # the first of equals; with no overlap at all, the first concept
    assert layer.best_iou.tolist() == [iou(50), 0.0, iou(60)]
    assert layer.is_detector.tolist() == [True, False, True]


def test_concepts_without_a_pixel_have_no_iou():
    layer = counted_layer([[50, 0, 0, 0]], NONE)
    tallies = dataclasses.replace(layer.tallies, concept_area=np.array([100, 0, 100, 100]))
    layer = dataclasses.replace(layer, tallies=tallies)
    assert np.isnan(layer.iou[0]).tolist() == [False, True, False, False]
    assert np.isnan(layer.information_quality[0]).tolist() == [False, True, False, False]
    assert "texture" not in layer.rows[0].matches


def test_invalid_units_have_no_score():
    layer = counted_layer([[90, 0, 0, 0]] * 3, [[50, 0, 0, 0]] * 3, status=("constant", "ok", "non-finite"))
    assert np.isnan(layer.iou[[0, 2]]).all()
    assert layer.best.tolist() == [-1, 0, -1]
    assert np.isnan(layer.best_iou[[0, 2]]).all()
    assert layer.is_detector.tolist() == layer.beats_chance.tolist() == [False, True, False]
    assert layer.rows[0].matches == {}
    scalars = layer.scalars()
    assert (scalars["detectors"], scalars["invalid_units"], scalars["interpretable_share"]) == (1, 2, 1 / 3)
    assert scalars["mean_iou"] == iou(90)


def test_the_null_maximum_is_the_layers():
    layer = counted_layer([[40, 0, 0, 0], [60, 0, 0, 0]], [[0, 0, 0, 30], [0, 50, 0, 0]])
    assert layer.chance_best_iou.tolist() == [iou(30), iou(50)]
    assert layer.chance_max_iou == iou(50)
    assert layer.beats_chance.tolist() == [False, True]


def test_a_unit_must_beat_chance_not_equal_it():
    layer = counted_layer([[40, 0, 0, 0]], [[0, 40, 0, 0]])
    assert layer.beats_chance.tolist() == [False]


def test_scores_by_both_rules():
    # Concepts: disc (object), stripe (texture), red (color), rim (part).
    layer = counted_layer([[50, 60, 0, 0], [0, 70, 0, 0], [0, 1, 0, 1]], [[20, 0, 0, 0]] * 3)
    scalars = layer.scalars()
    assert scalars["detectors"] == 2
    assert scalars["unique_detectors"] == 1  # stripe
    assert scalars["unique_by_category"] == 2  # disc and stripe
    assert scalars["object/detectors"] == scalars["object/unique_detectors"] == 1
    assert scalars["texture/detectors"] == 2
    assert scalars["texture/unique_detectors"] == 1
    assert scalars["detectors_by_chance"] == 3
    assert scalars["unique_by_chance"] == 1
    assert scalars["max_iou"] == iou(70)
    assert scalars["max_iou_by_chance"] == iou(20)
    assert scalars["beats_chance"] == 2


def test_scalars_have_always_the_same_keys_and_are_finite():
    good = counted_layer([[50, 60, 0, 0]], NONE)
    dead = counted_layer(NONE, NONE, status=("constant",))
    assert list(good.scalars()) == list(dead.scalars())
    assert all(math.isfinite(value) for value in dead.scalars().values())
    assert all(isinstance(value, float) for value in good.scalars().values())


def test_concepts_are_matched_within_their_category():
    concepts = (Concept(1, "a", "x"), Concept(2, "b", "y"), Concept(3, "c", "x"))
    layer = counted_layer([[10, 20, 30]], [[0, 0, 0]], concepts)
    assert layer.concept_category.tolist() == [0, 1, 0]
    assert {g: m.label for g, m in layer.rows[0].matches.items()} == {"x": "c", "y": "b"}
    assert (layer.rows[0].matches["x"].truth, layer.rows[0].matches["x"].activation) == (100, 100)


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (100, 1.0),  # unit and concept are one and the same
        (1, 0.0),  # independent: 100 * 100 / 10,000
    ],
)
def test_information_quality_at_its_ends(shared, expected):
    layer = counted_layer([[shared, 0, 0, 0]], NONE)
    assert layer.information_quality[0, 0] == pytest.approx(expected, abs=1e-12)


def test_information_quality_by_hand():
    layer = counted_layer([[50, 0, 0, 0]], NONE)
    p = np.array([50, 50, 50, 9850]) / 10_000
    marginal = np.array([100, 9900]) / 10_000
    joint, single = -(p * np.log(p)).sum(), -(marginal * np.log(marginal)).sum()
    assert layer.information_quality[0, 0] == pytest.approx((2 * single - joint) / joint)


def test_unit_that_is_never_active():
    layer = counted_layer(NONE, NONE)
    zero = np.zeros((1, 4), dtype=np.int64)
    nothing = Tallies(zero, zero, np.array([100, 0, 100, 100]), np.full(4, 10_000))
    layer = dataclasses.replace(layer, tallies=nothing)
    assert layer.best_iou.tolist() == [0.0]
    assert not layer.is_detector.any()
    assert layer.information_quality[0, 0] == 0.0


def test_layer_without_units():
    empty = np.zeros((0, 4), dtype=np.int64)
    tallies = Tallies(empty, empty, np.full(4, 100), np.full(4, 1000))
    layer = counted_layer(NONE, NONE)
    layer = dataclasses.replace(
        layer, thresholds=np.zeros(0), status=(), nonfinite=np.zeros(0, int), tallies=tallies, chance=tallies
    )
    assert layer.num_units == 0
    assert layer.chance_max_iou == 0.0
    assert layer.best.tolist() == []
    assert layer.scores.units == 0


def test_result_gathers_its_layers():
    one, two = counted_layer([[50, 0, 0, 0]], NONE, name="a"), counted_layer([[0, 0, 0, 0]], NONE, name="b.c")
    result = result_of(one, two)
    assert result["b.c"] is two
    scalars = result.scalars()
    assert scalars["a/detectors"] == 1
    assert scalars["b.c/detectors"] == 0
    assert scalars["seconds"] == 1.25
    assert json.loads(json.dumps(scalars)) == scalars


def test_results_are_frozen():
    layer = counted_layer(NONE, NONE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.layer = "other"
    assert {f.name for f in dataclasses.fields(LayerDissection)} >= {"tallies", "chance", "thresholds"}
    assert len(CONCEPTS) == layer.tallies.intersection.shape[1]


def test_of_tied_categories_every_output_names_the_same_concept():
    tied = (Concept(1, "hat", "part"), Concept(2, "cap", "object"))
    layer = dataclasses.replace(counted_layer([[50, 50]], [[0, 0]], tied), categories=("object", "part"))
    (row,) = layer.rows
    assert (row.best[1].label, layer.concepts[layer.best[0]].name) == ("cap", "cap")


def test_without_a_null_nothing_beats_it():
    layer = counted_layer([[50, 0, 0, 0]], [[0, 0, 0, 0]])
    alone = dataclasses.replace(layer, chance=dataclasses.replace(layer.chance, unit_area=layer.chance.unit_area * 0))
    assert layer.beats_chance.tolist() == [True]
    assert alone.beats_chance.tolist() == [False]
