import csv
import json
import math
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.errors import DatasetError
from lightning_interp.methods.bias.files import load_bias, save_bias
from lightning_interp.methods.bias.result import BiasResult, Score
from lightning_interp.results import files
from tests.helpers.bias_results import bias_result
from tests.helpers.results import HOSTILE

RESULT = bias_result(examples=(), ungated={"crr/makeup": 0.91, "scr/blond": math.nan})
DELETE = object()


def assert_same(a, b):
    """Bit for bit, types and order included; NaN equals NaN."""
    assert type(a) is type(b)
    if is_dataclass(a):
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (a != a and b != b)


@pytest.mark.parametrize("result", [RESULT, replace(RESULT, relations=None, scores={}, contexts={}, signal={})])
def test_diagnostics_come_back(result, tmp_path):
    assert save_bias(result, tmp_path / "epoch_0003") == tmp_path / "epoch_0003" / "bias.json"
    assert_same(load_bias(tmp_path / "epoch_0003"), result)
    assert sorted(path.name for path in (tmp_path / "epoch_0003").iterdir()) == ["bias.json", "scores.csv"]


def test_pictures_are_left_out(tmp_path):
    save_bias(bias_result(), tmp_path)
    assert load_bias(tmp_path).examples == ()


def test_nan_is_null_and_infinity_comes_back_as_nan(tmp_path):
    save_bias(replace(RESULT, scores={"a": Score(math.nan, -math.inf, 0.5)}), tmp_path)
    data = json.loads((tmp_path / "bias.json").read_text(), parse_constant=pytest.fail)
    assert data["scores"]["a"] == {"value": None, "low": None, "high": 0.5, "chance": None, "count": 0}
    assert data["relations"]["labels"][0] == [1.0, 0.95, 0.8, None]
    assert data["relations"]["findings"][0]["kind"] == "failure mode"
    assert math.isnan(load_bias(tmp_path).scores["a"].low)


def test_csv_by_hand(tmp_path):
    save_bias(RESULT, tmp_path)
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "name": "accuracy", "value": "0.96", "low": "0.94", "high": "0.98", "chance": "0.5", "count": "512",
    }  # fmt: skip
    assert {"name": "scr/blond", "value": "", "low": "", "high": "", "chance": "", "count": "512"} in rows
    assert [row["name"] for row in rows] == list(RESULT.scores)


@given(st.floats(allow_infinity=False), st.integers(0, 2**53))
@settings(max_examples=50, deadline=None, database=None)
def test_any_number_comes_back_bit_for_bit(tmp_path_factory, value, count):
    folder = tmp_path_factory.mktemp("bias")
    result = replace(RESULT, scores={"a": Score(value, count=count)})
    save_bias(result, folder)
    assert_same(load_bias(folder), result)


def test_hostile_names_come_back(tmp_path):
    for i, name in enumerate(HOSTILE):
        result = bias_result({f"crr/{name}": Score(0.5)}, target=name, region=name, contexts={name: name}, examples=())
        save_bias(result, tmp_path / str(i))
        assert_same(load_bias(tmp_path / str(i)), result)


def test_a_failure_on_the_way_leaves_no_complete_folder(tmp_path, monkeypatch):
    save_bias(RESULT, tmp_path)

    def fail(path, text):
        raise OSError("disk full")

    monkeypatch.setattr(files, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bias(RESULT, tmp_path)
    assert not (tmp_path / "bias.json").exists()


def test_a_folder_without_diagnostics_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"bias\.json: not saved bias diagnostics: .*No such file"):
        load_bias(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 2}', "\xff", "[" * 100_000, "{}"])
def test_what_is_no_such_document_is_named(text, tmp_path):
    (tmp_path / "bias.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"bias\.json: not saved bias diagnostics: "):
        load_bias(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (["format"], 2, "format 2, expected 1"),
        (["target"], DELETE, "'target' is missing"),
        (["target"], 3, "target is 3, not of type str"),
        (["contexts"], {"makeup": 3}, "contexts: 'makeup' is 3"),
        (["scores"], [], r"scores is \[\], not of type dict"),
        (["scores", "accuracy", "value"], "high", "value of score 'accuracy' is 'high', not a number"),
        (["scores", "accuracy", "value"], True, "value of score 'accuracy' is True, not a number"),
        (["scores", "accuracy", "count"], 1.5, "count of score 'accuracy' is 1.5"),
        (["scores", "accuracy", "low"], DELETE, "'low' is missing"),
        (["scores", "accuracy", "low"], 10**400, "too large"),
        (["signal", "makeup"], 1, "signal: 'makeup' is 1, not of type bool"),
        (["ungated"], 3, "ungated is 3, not of type dict"),
        (["ungated", "crr/makeup"], "x", "ungated 'crr/makeup' is 'x', not a number"),
        (["num_images"], True, "num_images is True"),
        (["relations"], 3, "relations is 3"),
        (["relations", "names"], ["lipstick"], "is not 1 x 1, as there are names"),
        (["relations", "names", 0], None, "a name of relations is None"),
        (["relations", "kl", 0], [1.0], "kl is not 4 x 4"),
        (["relations", "labels", 0, 0], "x", "a value of labels is 'x'"),
        (["relations", "expected", 0, 1], 0.5, "expected holds something other"),
        (["relations", "expected", 0, 1], None, "expected holds something other"),
        (["relations", "findings", 0, "kind"], "fault", "a finding is 'fault' of 'lipstick' and 'makeup'"),
        (["relations", "findings", 0, "second"], "hat", "a finding is 'failure mode' of 'lipstick' and 'hat'"),
        (["relations", "findings", 0, "first"], [], "a finding is 'failure mode' of"),
        (["relations", "findings", 0, "expected"], 2, "a finding expects 2"),
        (["relations", "findings", 0, "expected"], {}, "a finding expects"),
        (["meta"], None, "meta is None"),
    ],
)
def test_what_is_wrong_is_told(path, value, what, tmp_path):
    save_bias(RESULT, tmp_path)
    document = json.loads((tmp_path / "bias.json").read_text())
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is DELETE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    (tmp_path / "bias.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=rf"bias\.json: not saved bias diagnostics: .*{what}"):
        load_bias(tmp_path)


VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUE = VALUE | st.lists(VALUE, max_size=2) | st.dictionaries(st.text(max_size=3), VALUE, max_size=2)


@given(st.sampled_from(["contexts", "scores", "signal", "relations", "missing", "settings", "seconds"]), VALUE)
@settings(max_examples=100, deadline=None, database=None)
def test_any_value_is_read_or_refused(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("bias")
    save_bias(RESULT, folder)
    document = json.loads((folder / "bias.json").read_text()) | {key: value}
    (folder / "bias.json").write_text(json.dumps(document))
    with suppress(DatasetError):
        assert isinstance(load_bias(folder), BiasResult)
