import re

import pytest

from lightning_interp.drawing.text import clean, markdown_table
from tests.helpers.results import HOSTILE


@pytest.mark.parametrize("name", HOSTILE)
def test_clean_names_are_one_short_printable_line(name):
    shown = clean(name)
    assert shown.isprintable()
    assert len(shown) <= 40
    shown.encode()


def test_clean_keeps_ordinary_names():
    assert clean("train_station-outdoor-s") == "train_station-outdoor-s"
    assert clean("Ärmel 袖") == "Ärmel 袖"


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_cell_holds_no_markup(name):
    line = markdown_table(["a", "b"], [[name, 1]]).splitlines()[2]
    assert line.count("|") == 3
    assert not re.search(r"[<>$`*_\[\]\\]", line)


def test_markdown_table_by_hand():
    table = markdown_table(["unit", "name"], [[3, "a|b"]])
    assert table == "| unit | name |\n| --- | --- |\n| 3 | a&#124;b |"
