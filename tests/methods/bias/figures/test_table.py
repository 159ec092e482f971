import math
from dataclasses import replace

import pytest

from lightning_interp.methods.bias.figures.table import (
    _MEANING,
    FINDING_COLUMNS,
    SCORE_COLUMNS,
    finding_table,
    score_table,
)
from lightning_interp.methods.bias.result import Score
from lightning_interp.methods.dissection.console import aligned
from tests.helpers.bias_results import bias_result, relations


def test_scores_by_hand():
    untrained = {"accuracy": 0.51, "crr/makeup": math.nan}
    rows = {row[0]: row[1:] for row in score_table(bias_result(), untrained)}
    assert rows["accuracy"] == ("0.960", "0.940 to 0.980", "0.500", "0.510", "512", "share of right answers")
    assert rows["crr/makeup"][:5] == ("0.910", "0.880 to 0.940", "0.300", "no signal", "512")
    assert rows["e_region"][:5] == ("0.040", "", "", "", "512")
    assert rows["scr/blond"][0] == "no signal"


def test_rows_keep_the_order_of_the_scores_and_missing_checks_come_last():
    result = bias_result({"b": Score(1.0), "a": Score(2.0)}, missing={"swap": "no donors", "relations": "one output"})
    rows = score_table(result, {})
    assert [row[0] for row in rows] == ["b", "a", "swap", "relations"]
    assert rows[2] == ("swap", "left out", "", "", "", "", "no donors")
    assert {len(row) for row in rows} == {len(SCORE_COLUMNS)}


@pytest.mark.parametrize(("low", "high", "words"), [(0.4, math.nan, "from 0.400"), (math.nan, math.nan, "")])
def test_half_an_interval_and_none(low, high, words):
    assert score_table(bias_result({"a": Score(0.5, low, high)}), {})[0][2] == words


def test_what_a_score_means_fits_a_terminal():
    rows = score_table(bias_result(), {})
    assert "…" not in aligned([SCORE_COLUMNS, *rows])
    assert max(map(len, _MEANING.values())) <= 40


def test_findings_by_hand():
    assert finding_table(relations()) == [
        ("failure mode", "lipstick, makeup", "0.900", "unrelated", "178.250", "0.950", "1.200"),
        ("blind spot", "red, lipstick", "0.100", "positive", "12.500", "0.800", "1.200"),
    ]
    assert {len(row) for row in finding_table(relations())} == {len(FINDING_COLUMNS)}


def test_unknown_numbers_of_a_finding_are_words():
    lost = replace(relations().findings[0], first="smile", second="red", mean=math.nan, expected=-1)
    row = finding_table(replace(relations(), findings=(lost,)))[0]
    assert (row[2], row[3], *row[5:]) == ("no signal", "negative", "unknown", "unknown")


def test_no_finding_is_said():
    assert finding_table(replace(relations(), findings=())) == [("none", *[""] * 6)]
