import math

from lightning_interp.methods.dissection.figures.units import gallery_units, ranked, unit_summaries, unit_table
from tests.helpers.results import counted_layer

# IoU is I / (200 - I): 60 gives 0.4286, 50 gives 1/3, 40 gives 0.25, 4 gives 0.0204.
FOUND = [[50, 0, 0, 0], [60, 0, 0, 0], [0, 40, 0, 0], [4, 0, 0, 0], [90, 0, 0, 0]]
CHANCE = [[0, 0, 0, 45], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
LAYER = counted_layer(FOUND, CHANCE, status=["ok", "ok", "ok", "ok", "constant"])


def test_summaries_by_hand():
    first, _, third, fourth, fifth = unit_summaries(LAYER)
    assert (first.concept, first.category, first.iou, first.chance_iou) == (
        "disc",
        "object",
        50 / 150,
        45 / 155,
    )
    assert first.detector
    assert first.beats_chance
    assert first.caveat == ""
    assert first.title == "unit 0  disc (object)  IoU 0.33"
    # 0.25 is above the threshold but below the null maximum of 45 / 155.
    assert third.detector
    assert not third.beats_chance
    assert third.caveat == "within chance"
    assert fourth.caveat == "below threshold, within chance"
    assert fifth.concept is None
    assert math.isnan(fifth.iou)
    assert fifth.caveat == "not scored: constant"


def test_ranked_puts_units_without_a_concept_last():
    assert [s.unit for s in ranked(LAYER)] == [1, 0, 2, 3, 4]


def test_gallery_takes_the_best_of_each_concept_first():
    assert gallery_units(LAYER, 2) == (1, 2)
    assert gallery_units(LAYER, 3) == (1, 2, 0)
    assert gallery_units(LAYER, 99) == (1, 2, 0, 3, 4)


def test_table_by_hand():
    assert unit_table(LAYER, 1) == [("1", "disc", "object", "0.429", "0.000", "0.75", "")]
    assert unit_table(LAYER, 3)[1] == ("0", "disc", "object", "0.333", "0.290", "0.5", "")


def test_unit_that_is_not_scored_has_empty_cells():
    assert unit_table(LAYER)[-1] == ("4", "", "", "", "", "1.5", "not scored: constant")
