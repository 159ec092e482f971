"""Plain-text tables: what stands in them, and that hostile names cannot break them."""

from lightning_interp.data.probe import Concept
from lightning_interp.methods.dissection.console import aligned, count_lines, unit_lines
from tests.helpers.results import HOSTILE, counted_layer, result_of

CONCEPTS = (Concept(1, "disc", "object"), Concept(2, "red", "color"))


def test_unit_lines_rank_units_under_the_headline():
    layer = counted_layer([[0, 90], [50, 0], [1, 0]], [[1, 0]] * 3, CONCEPTS)
    lines = unit_lines(layer, rows=2).splitlines()
    assert lines[0] == "2 of 3 units detect 2 concepts (by chance 0 and 0)"
    assert lines[1].split()[:4] == ["unit", "concept", "category", "IoU"]
    assert [line.split()[:4] for line in lines[3:]] == [
        ["0", "red", "color", "0.818"],
        ["1", "disc", "object", "0.333"],
    ]


def test_unit_lines_with_variety_show_the_best_of_every_concept_first():
    layer = counted_layer([[0, 90], [0, 80], [50, 0]], [[1, 0]] * 3, CONCEPTS)
    assert [line.split()[0] for line in unit_lines(layer, rows=2).splitlines()[3:]] == ["0", "1"]
    assert [line.split()[0] for line in unit_lines(layer, rows=2, variety=True).splitlines()[3:]] == ["0", "2"]


def test_count_lines_show_found_beside_chance_by_probe():
    layers = [counted_layer([[90, 0]] * n + [[0, 0]], [[20, 0]] + [[0, 0]] * n, CONCEPTS) for n in (1, 2)]
    history = [(name, result_of(layer).scalars()) for name, layer in zip(("start", "0"), layers, strict=True)]
    lines = count_lines(history, "layer4").splitlines()
    assert [line.split()[:6] for line in lines[2:]] == [
        ["start", "1", "1", "1", "1", "1"],
        ["0", "2", "1", "1", "1", "2"],
    ]


def test_names_cannot_break_the_columns():
    lines = aligned([("name", "n"), *((name, "1") for name in HOSTILE)]).splitlines()
    assert len(lines) == len(HOSTILE) + 2
    assert len({line.rindex("1") for line in lines[2:]}) == 1
    assert all(line.isprintable() for line in lines)
