import sys

import numpy as np
import pytest

from lightning_interp.data.probe import Concept
from lightning_interp.drawing.figures import render
from lightning_interp.drawing.palette import category_color, ordered
from lightning_interp.methods.dissection.figures.bars import concept_counts, detector_bars, headline, most_counted
from lightning_interp.methods.dissection.figures.timeline import concept_timeline
from tests.helpers.results import HOSTILE, counted_layer

FOUND = [[50, 0, 0, 0], [60, 0, 0, 0], [0, 40, 0, 0], [0, 0, 90, 0], [4, 0, 0, 0]]
CHANCE = [[0, 0, 0, 20], [0, 30, 0, 0], [0, 30, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
LAYER = counted_layer(FOUND, CHANCE)


def test_counts_by_hand():
    assert concept_counts(LAYER) == [
        ("disc", "object", 2, 0),
        ("stripe", "texture", 1, 2),
        ("red", "color", 1, 0),
        ("rim", "part", 0, 1),
    ]
    assert headline(LAYER) == "4 of 5 units detect 3 concepts (by chance 3 and 2)"


def test_the_largest_counts_are_kept_in_order():
    assert [n.concept for n in most_counted(concept_counts(LAYER), 2)] == ["disc", "stripe"]


def test_bars_have_heights_and_colours_of_the_counts():
    axes = detector_bars(LAYER).axes[0]
    found, chance = axes.containers
    assert [bar.get_height() for bar in found] == [2, 1, 1, 0]
    assert [bar.get_height() for bar in chance] == [0, 2, 0, 1]
    assert found[0].get_facecolor() == pytest.approx((0, 0x72 / 255, 0xB2 / 255, 1))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["disc", "stripe", "red", "rim"]


def test_a_layer_without_detectors_says_so():
    axes = detector_bars(counted_layer([[0, 0, 0, 0]], [[0] * 4])).axes[0]
    assert not axes.containers
    assert "no detectors" in [text.get_text() for text in axes.texts]


def test_more_concepts_than_fit_are_told():
    concepts = [Concept(i + 1, f"concept {i}", "object") for i in range(90)]
    axes = detector_bars(counted_layer(np.eye(90, dtype=int) * 50, np.zeros((90, 90)), concepts)).axes[0]
    assert len(axes.containers[0]) == 80
    assert axes.get_xlabel() == "and 10 concepts more"


def probe_of(epoch, *concepts):
    category = {"eye": "part", "hat": "object", "red": "color", None: None}
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "labels": {"layer4": list(concepts)},
        "categories": {"layer4": [category[c] for c in concepts]},
    }


HISTORY = [
    probe_of(0, None, None, None, None),
    probe_of(2, "eye", "hat", "eye", None),
    probe_of(4, "hat", "hat", None, "red"),
]


def test_the_probe_before_training_is_called_start():
    below = concept_timeline([probe_of(-1, "eye"), probe_of(0, "eye")], "layer4").axes[1]
    assert [label.get_text() for label in below.get_xticklabels()] == ["start", "0"]


def test_timeline_cells_by_hand():
    above, below = concept_timeline(HISTORY, "layer4").axes
    grey, blue, orange, sky = (tuple(bytes.fromhex(c)) for c in ("E4E6EA", "0072B2", "E69F00", "56B4E9"))
    cells = [[tuple(cell) for cell in row] for row in below.images[0].get_array().tolist()]
    # Units 0 and 1 (hat), 3 (red), then 2, which ended as no detector.
    assert cells == [[grey, orange, blue], [grey, blue, blue], [grey, grey, sky], [grey, orange, grey]]
    assert [text.get_text() for text in below.texts] == ["hat", "red", "no detector"]
    assert [label.get_text() for label in below.get_xticklabels()] == ["0", "2", "4"]
    heights = {tuple(bar.get_height() for bar in bars) for bars in above.containers}
    assert heights == {(0, 1, 2), (0, 2, 0), (0, 0, 1)}


def test_timeline_marks_units_that_went_over():
    _, below = concept_timeline(HISTORY, "layer4").axes
    marks = below.collections[0]
    assert [segment.tolist() for segment in marks.get_segments()] == [[[1.5, -0.5], [1.5, 0.5]]]
    assert marks.get_colors().tolist() == [[0x1F / 255, 0x23 / 255, 0x28 / 255, 1.0]]
    _, unmarked = concept_timeline(HISTORY[:2], "layer4").axes
    assert all(lines.get_colors().tolist() == [[1.0] * 4] for lines in unmarked.collections)


def test_timeline_needs_a_probe():
    with pytest.raises(ValueError, match="at least one"):
        concept_timeline([], "layer4")


def test_hostile_names_are_drawn():
    concepts = [Concept(i + 1, name, name) for i, name in enumerate(HOSTILE)]
    layer = counted_layer(
        np.eye(len(HOSTILE), dtype=int) * 50, np.zeros((len(HOSTILE),) * 2), concepts, name=HOSTILE[0]
    )
    names = list(HOSTILE)
    probe = {"epoch": 0, "step": 0, "labels": {HOSTILE[0]: names}, "categories": {HOSTILE[0]: names}}
    for figure in (detector_bars(layer), concept_timeline([probe], HOSTILE[0])):
        assert render(figure).std() > 0


def test_rendering_frees_the_figure_and_leaves_pyplot_alone():
    figure = detector_bars(LAYER)
    pixels = render(figure)
    assert pixels.ndim == 3
    assert pixels.dtype == np.uint8
    assert figure.axes == []
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_category_has_one_colour():
    known = ["object", "part", "scene", "material", "texture", "color"]
    assert len({category_color(name) for name in known}) == 6
    assert category_color("animal") == category_color("animal")
    assert ordered(["zebra", "color", "animal", "object"]) == ["object", "color", "animal", "zebra"]
