"""The table of an evaluation, from figures by hand."""

import dataclasses
import math

import pytest

from lightning_interp.methods.graph.figures.table import evaluation_table, page_scores
from lightning_interp.methods.graph.maths.evaluation import LayerEvaluation, PlaceScores
from tests.helpers.graphs import LAYERS, toy_graph

TOP, LOW = LAYERS[:2]


def scores(start, **given):
    """The quantities in their order: start, start + 0.01..."""
    names = [field.name for field in dataclasses.fields(PlaceScores)]
    return PlaceScores(**({name: start + i / 100 for i, name in enumerate(names)} | given))


def evaluation(**given):
    names = ("raw", "patterns", "frozen", "expected", "centre", "random", "raw_same")
    return LayerEvaluation(**{name: scores(i + 1, **given) for i, name in enumerate(names)})


@pytest.fixture
def graph():
    nothing = dict.fromkeys(("purity", "purity_area", "purity_best_constant"), math.nan)
    layers = {TOP: evaluation(), LOW: evaluation(**nothing)}
    figures = {f"{name}/{key}": value for name, each in layers.items() for key, value in each.scalars().items()}
    return dataclasses.replace(toy_graph(2), meta={"evaluation": figures})


def test_table(graph):
    columns, rows = evaluation_table(graph, TOP)
    assert columns == [
        *("", "location instability", "AAAI 2018", "displacement correlation", "by chance", "R2"),
        *("steadier than the centre", "purity", "purity by chance", "best constant"),
    ]
    assert [row[0] for row in rows] == [
        *("patterns", "raw filters", "raw filters, on the patterns' images", "patterns held still"),
        *("where expected", "image centre", "random"),
    ]
    assert rows[0][1:] == ["2.000", "2.010", "2.020", "2.030", "2.040", "2.050", "2.070", "2.080", "2.090"]
    assert [row[1] for row in rows] == ["2.000", "1.000", "7.000", "3.000", "4.000", "5.000", "6.000"]


def test_what_was_not_measured_has_no_column_and_what_has_no_value_no_text(graph):
    graph.meta["evaluation"][f"{LOW}/r2_random"] = math.nan
    columns, rows = evaluation_table(graph, LOW)
    assert columns[-1] == "steadier than the centre"
    assert len(columns) == 7
    column = columns.index("R2")
    assert [row[column] for row in rows] == ["2.040", "1.040", "7.040", "3.040", "4.040", "5.040", ""]


def test_every_quantity_but_those_told_elsewhere_is_a_column(graph):
    columns, rows = evaluation_table(graph, TOP)
    shown = {row[i] for row in rows for i in range(1, len(columns))}
    missing = {key for key, value in evaluation().scalars().items() if f"{value:.3f}" not in shown}
    assert {key.split("_raw")[0] for key in missing if key.endswith("_raw")} == {"beats_frozen", "scored"}


def test_scores_of_the_page(graph):
    found = page_scores(graph)
    assert list(found)[:2] == [f"{TOP}: location instability", f"{TOP}: AAAI 2018"]
    assert len(found) == 9 + 6
    assert found[f"{LOW}: displacement correlation"] == {
        "patterns": "2.020",
        "raw filters": "1.020",
        "raw filters, on the patterns' images": "7.020",
        "patterns held still": "3.020",
        "where expected": "4.020",
        "image centre": "5.020",
        "random": "6.020",
    }


def test_without_an_evaluation_there_is_nothing_for_the_page():
    assert page_scores(toy_graph(2)) == {}
    assert page_scores(dataclasses.replace(toy_graph(2), meta={"evaluation": {}})) == {}
