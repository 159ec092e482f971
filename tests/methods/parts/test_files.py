"""Files of filters and parts: everything comes back, nothing that is damaged does."""

import csv
import dataclasses
import json
import math

import pytest

from lightning_interp import DatasetError
from lightning_interp.methods.parts.engine import measure_parts
from lightning_interp.methods.parts.files import load_parts, save_parts
from tests.helpers.parts import SpotProbe, spot_model
from tests.methods.parts.test_engine import assert_same


@pytest.fixture(scope="module")
def result():
    return measure_parts(spot_model(), SpotProbe(20, categories=2), ["0"])


def test_all_comes_back_to_the_bit(result, tmp_path):
    assert save_parts(result, tmp_path) == tmp_path / "parts.json"
    again = load_parts(tmp_path)
    assert_same(again, result)
    scalars = result.scalars()
    assert {k: v for k, v in again.scalars().items() if not math.isnan(v)} == {
        k: v for k, v in scalars.items() if not math.isnan(v)
    }
    assert (again.landmarks, again.parts, again.rule) == (("red", "green"), ("red spot", "green spot"), "least")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "filters_0.csv", "parts.json"]


def test_what_was_not_measured_stays_out(tmp_path):
    few = measure_parts(spot_model(), SpotProbe(6), ["0"], measures=["location"])
    save_parts(few, tmp_path)
    again = load_parts(tmp_path)
    assert_same(again, few)
    assert again["0"].purity is again["0"].interpretability is again["0"].selectivity is None


def test_table_has_a_row_a_filter(result, tmp_path):
    save_parts(result, tmp_path)
    with open(tmp_path / "filters_0.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "dead"]
    assert (rows[0]["part"], float(rows[0]["interpretability"])) == ("red spot", 1)
    assert [row["location_category"] for row in rows] == ["0", "1", "0", ""]
    assert rows[3]["instability"] == rows[3]["landmark"] == ""


def test_layers_never_leave_the_folder(result, tmp_path):
    hostile = dataclasses.replace(result, layers={"../../x": dataclasses.replace(result["0"], layer="../../x")})
    save_parts(hostile, tmp_path / "a" / "b" / "c")
    assert_same(load_parts(tmp_path / "a" / "b" / "c"), hostile)
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"c"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, expected 1"),
        ({"arrays": False}, "saved without its arrays"),
        ({"rule": "most"}, "rule 'most', expected"),
        ({"layers": ["1"]}, "not a saved result: FileNotFoundError"),
        ({"layers": 3}, "not a saved result: TypeError"),
    ],
)
def test_damaged_documents_are_refused(result, tmp_path, change, message):
    path = save_parts(result, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DatasetError, match=message):
        load_parts(tmp_path)


def test_damaged_arrays_are_refused(result, tmp_path):
    save_parts(result, tmp_path)
    (tmp_path / "0.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(DatasetError, match="damaged"):
        load_parts(tmp_path)
    with pytest.raises(DatasetError, match="not a saved result"):
        load_parts(tmp_path / "nothing")


def test_without_safetensors_the_table_is_still_written(result, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_interp.results.files.available", lambda name: False)
    with pytest.warns(UserWarning, match="safetensors is not installed"):
        save_parts(result, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["filters_0.csv", "parts.json"]
    with pytest.raises(DatasetError, match="saved without its arrays"):
        load_parts(tmp_path)
