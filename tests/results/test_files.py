import csv
import json
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.errors import DatasetError
from lightning_interp.methods.dissection.files import load_result, save_result
from lightning_interp.results import files
from lightning_interp.results.files import slug, write_jpeg, write_json, write_png, write_safetensors, write_text
from tests.helpers.results import HOSTILE, DiscProbe, counted_layer, planted_layer, result_of

RESULT = result_of(planted_layer(DiscProbe()), planted_layer(DiscProbe(), "features/../0", units=4))


def assert_same(a, b):
    """Bit for bit, types of arrays included."""
    assert type(a) is type(b)
    if is_dataclass(a):
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        assert a == b


def test_a_result_comes_back_bit_for_bit(tmp_path):
    save_result(RESULT, tmp_path)
    loaded = load_result(tmp_path)
    assert_same(RESULT, loaded)
    assert loaded.scalars() == RESULT.scalars()


def test_the_folder_holds_what_it_should_and_nothing_else(tmp_path):
    assert save_result(RESULT, tmp_path / "epoch_0003").name == "dissection.json"
    names = sorted(path.name for path in (tmp_path / "epoch_0003").iterdir())
    other = slug("features/../0")
    assert names == sorted(
        ["dissection.json", "layer4.safetensors", "units_layer4.csv", f"{other}.safetensors", f"units_{other}.csv"]
    )


def test_json_by_hand(tmp_path):
    layer = counted_layer([[50, 0, 0, 0], [90, 0, 0, 0]], [[20, 0, 0, 0]] * 2, status=["ok", "non-finite"])
    save_result(result_of(replace(layer, thresholds=np.array([0.5, np.nan]))), tmp_path)
    data = json.loads((tmp_path / "dissection.json").read_text(), parse_constant=pytest.fail)
    first, second = data["layers"][0]["units"]
    assert first == {
        "unit": 0,
        "status": "ok",
        "concept": "disc",
        "category": "object",
        "iou": 50 / 150,
        "chance_iou": 20 / 180,
        "threshold": 0.5,
        "nonfinite": 0,
        "detector": True,
        "beats_chance": True,
        "top_images": [],
    }
    assert (second["concept"], second["iou"], second["threshold"]) == (None, None, None)
    assert data["scalars"]["layer4/detectors"] == 1.0
    assert data["meta"] == {"epoch": 3, "global_step": 120}


def test_csv_has_the_columns_of_netdissect(tmp_path):
    save_result(result_of(counted_layer([[0, 0, 0, 0], [50, 0, 0, 0]], [[0] * 4] * 2)), tmp_path)
    with open(tmp_path / "units_layer4.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["unit"] for row in rows] == ["2", "1"]
    assert (rows[0]["category"], rows[0]["label"], float(rows[0]["score"])) == ("object", "disc", 50 / 150)
    assert (rows[0]["object-truth"], rows[0]["object-activation"], rows[0]["object-intersect"]) == ("100", "100", "50")


def test_without_safetensors_json_and_csv_are_written(tmp_path, monkeypatch):
    save_result(RESULT, tmp_path)
    monkeypatch.setattr(files, "available", lambda name: False)
    with pytest.warns(UserWarning, match=r"lightning-interp\[io\]") as seen:
        save_result(RESULT, tmp_path / "bare")
    assert len(seen) == 1
    assert {path.suffix for path in (tmp_path / "bare").iterdir()} == {".json", ".csv"}
    with pytest.raises(DatasetError, match="without its arrays"):
        load_result(tmp_path / "bare")


def test_a_failure_on_the_way_leaves_no_complete_folder(tmp_path, monkeypatch):
    save_result(RESULT, tmp_path)

    def fail(path, arrays):
        raise OSError("disk full")

    monkeypatch.setattr(files, "write_safetensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save_result(RESULT, tmp_path)
    assert not (tmp_path / "dissection.json").exists()
    with pytest.raises(DatasetError, match="not a saved result"):
        load_result(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "arrays": true}', "\xff"])
def test_a_damaged_document_is_named(tmp_path, text):
    (tmp_path / "dissection.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"dissection\.json"):
        load_result(tmp_path)


def test_damaged_arrays_are_named(tmp_path):
    save_result(RESULT, tmp_path)
    path = tmp_path / "layer4.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"layer4\.safetensors: damaged"):
        load_result(tmp_path)


def test_hostile_names_come_back(tmp_path):
    concepts = [Concept(i + 1, name, f"{i}{name}") for i, name in enumerate(HOSTILE)]
    layers = [
        counted_layer(np.eye(len(HOSTILE), dtype=int), np.zeros((len(HOSTILE),) * 2), concepts, name=name)
        for name in HOSTILE
    ]
    save_result(result_of(*layers), tmp_path / "here")
    assert_same(load_result(tmp_path / "here"), result_of(*layers))
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("name", [*HOSTILE, "../../x", "/etc/passwd", "..", ".", "a/b", "a b", "CON:"])
def test_slugs_are_plain_and_stay_in_the_folder(name, tmp_path):
    plain = slug(name)
    assert 0 < len(plain) <= 64
    assert (tmp_path / plain).resolve().parent == tmp_path.resolve()
    assert plain.isascii()


def test_slugs_tell_names_apart():
    names = ["a/b", "a-b", "a b", "a|b", "", "_", "../a-b"]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("layer4.0") == "layer4.0"


WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: write_json(path, {"a": [1, float("nan")]}),
    "png": lambda path: write_png(path, Image.new("RGB", (2, 2))),
    "jpeg": lambda path: write_jpeg(path, Image.new("RGB", (2, 2))),
    "safetensors": lambda path: write_safetensors(path, {"a": np.zeros(2)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(kind, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        WRITERS[kind](path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("kind", WRITERS)
def test_writers_replace_whole_files_and_make_folders(kind, tmp_path):
    path = tmp_path / "new" / "file"
    WRITERS[kind](path)
    first = path.read_bytes()
    WRITERS[kind](path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_json_has_null_for_what_json_lacks(tmp_path):
    write_json(tmp_path / "a.json", {"x": (float("nan"), float("inf"), 1.5), 3: None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, None, 1.5], "3": None}
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {"x": object()})
    assert not (tmp_path / "b.json").exists()
