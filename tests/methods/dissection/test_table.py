import csv
from io import StringIO

import pytest

from lightning_interp.errors import DatasetError
from lightning_interp.methods.dissection.maths.scores import Match, UnitRow, layer_scores
from lightning_interp.methods.dissection.table import read_unit_table, write_unit_table

# Lines of NetDissect's plot/ResNet-152-model_places365.csv and plot/ResNet-152-model_imagenet.csv, some categories
# left out: a count written as a float, an empty label, a unit that detects in two categories.
HEADER = "unit,category,label,score," + ",".join(
    f"{c}-{part}" for c in ("object", "scene", "texture", "part")
    for part in ("label", "truth", "activation", "intersect", "iou")
)  # fmt: skip
TRAIN = (
    "924,object,train,0.29318890307977408,train,1646804,2843788.0,1018097,0.29318890307977408,"
    "train_station-outdoor-s,137984,452707.0,25607,0.045315386738962703,"
    ",24924928,0.0,145532,0.0058731052201595225,coach,689166,2373195.0,355029,0.13113611481709669"
)
COBWEB = (
    "976,texture,cobwebbed,0.48661651443310205,labyrinth,51914,1016043.0,17613,0.016768791938641055,"
    "labyrinth-indoor-s,137984,442049.0,23177,0.041621173157872053,"
    "cobwebbed,1505280,1467623.0,973125,0.48661651443310205,head,4946761,573244.0,43418,0.0079279302967340797"
)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "units.csv"
    path.write_text("\n".join([HEADER, TRAIN, COBWEB, ""]))
    return path


def test_published_lines_by_hand(table):
    rows, categories = read_unit_table(table)
    assert categories == ("object", "scene", "texture", "part")
    assert [row.unit for row in rows] == [923, 975]
    train, cobweb = rows
    assert train.matches["object"] == Match("train", 1646804, 2843788, 1018097)
    assert train.matches["texture"] == Match("", 24924928, 0, 145532)
    published = [0.29318890307977408, 0.045315386738962703, 0.0058731052201595225, 0.13113611481709669]
    assert [match.iou for match in train.matches.values()] == published
    assert train.best == ("object", train.matches["object"])
    assert cobweb.best == ("texture", cobweb.matches["texture"])


def test_scores_of_published_lines_by_hand(table):
    scores = layer_scores(*read_unit_table(table))
    assert (scores.detectors, scores.unique_detectors, scores.unique_by_category) == (2, 2, 5)
    assert scores.category_detectors == {"object": 1, "scene": 2, "texture": 1, "part": 1}


def test_round_trip_sorts_by_score_and_keeps_every_digit(table, tmp_path):
    rows, categories = read_unit_table(table)
    rows.append(UnitRow(4, {}))
    rows.append(UnitRow(5, {"part": Match('a,"b"\n', 3, 2, 1)}))
    text = StringIO(newline="")
    write_unit_table(text, rows, categories)
    (tmp_path / "again.csv").write_text(text.getvalue(), newline="")
    again, same = read_unit_table(tmp_path / "again.csv")
    assert same == categories
    assert again == [rows[1], rows[0], rows[3], rows[2]]
    lines = list(csv.DictReader(text.getvalue().splitlines()[:3]))
    assert float(lines[1]["object-iou"]) == 0.29318890307977408


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unit,", "number,", "line 1: no column 'unit'"),
        ("scene-truth", "scene-truths", "line 1: no column 'scene-truth'"),
        ("scene-", "object-", "line 1"),
        ("924,", "976,", "line 3: unit 976"),
        ("924,", "0,", "line 2: unit 0"),
        ("1646804", "many", "line 2, column 'object-truth': 'many'"),
        ("1646804", "-1", "line 2, column 'object-truth'"),
        ("1646804", "nan", "line 2, column 'object-truth'"),
        ("1646804", "1e300", "line 2, column 'object-truth'"),
        ("1646804", "1.5", "line 2, column 'object-truth'"),
        ("924,", "924,x,", "line 2: not 24 cells"),
        ("cobwebbed,1505280", '"cobwebbed,1505280', "not a per-unit table"),
        ("train,", "\udcff,", "not a per-unit table"),
    ],
)
def test_a_malformed_table_is_named_with_its_line(table, old, new, message):
    text = table.read_text().replace(old, new, 1 if old != "scene-" else -1)
    table.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=message):
        read_unit_table(table)


def test_an_absent_or_empty_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no\.csv"):
        read_unit_table(tmp_path / "no.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DatasetError, match="line 1"):
        read_unit_table(tmp_path / "empty.csv")
