"""Files of explanatory graphs: everything comes back, nothing is lost, nothing that is damaged is read."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_interp import DatasetError, MissingExtraError
from lightning_interp.methods.graph import files as graph_files
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.results.files import read_safetensors, write_safetensors
from tests.helpers.absent import hide
from tests.helpers.graphs import assert_same_graph, toy_graph

LOW, MIDDLE, TOP = "features.4", "features.8", "features.12"


def arrays_file(folder):
    (path,) = folder.glob("*.safetensors")
    return path


def rewrite_json(folder, change):
    path = folder / "graph.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rewrite_array(folder, name, change):
    """As by hand: the file keeps its name."""
    arrays = {key: np.array(value) for key, value in read_safetensors(arrays_file(folder)).items()}
    arrays[name] = change(arrays[name])
    write_safetensors(arrays_file(folder), arrays)


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize("options", [{}, {"layers": 1, "parents": 0}, {"poses": 2}, {"learnt": False}, {"images": 1}])
def test_all_comes_back_to_the_bit(tmp_path, options):
    graph = toy_graph(**options)
    assert graph.save(tmp_path) == tmp_path / "graph.json"
    assert_same_graph(GraphResult.load(tmp_path), graph)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_numbers_that_have_no_short_form_come_back(tmp_path):
    graph = toy_graph(1)
    position = graph.layers[0].position.clone()
    position[:2] = torch.tensor([[-0.0, 5e-324], [1 / 3, -1e300]], dtype=torch.float64)
    grid = dataclasses.replace(
        graph.layers[0].grid, rows=dataclasses.replace(graph.layers[0].grid.rows, first=0.1 + 0.2)
    )
    graph = dataclasses.replace(graph, layers=(dataclasses.replace(graph.layers[0], position=position, grid=grid),))
    graph = dataclasses.replace(graph, seconds=2 / 3)
    graph.save(tmp_path)
    assert_same_graph(GraphResult.load(tmp_path), graph)


def test_figures_of_nothing_come_back_as_nan(tmp_path):
    graph = dataclasses.replace(toy_graph(), meta={"evaluation": {"up/purity": math.nan, "up/r2": -0.5}, "epoch": None})
    graph.save(tmp_path)
    again = GraphResult.load(tmp_path)
    assert math.isnan(again.scalars()["up/purity"])
    assert again.scalars()["up/r2"] == -0.5
    assert again.meta["epoch"] is None


def test_edits_are_kept_and_can_be_undone_after_loading(tmp_path):
    graph = toy_graph().prune([f"{TOP}/0/0", f"{LOW}/5/1"]).restore([f"{TOP}/0/0"]).prune([f"{MIDDLE}/0/0"])
    graph.save(tmp_path)
    again = GraphResult.load(tmp_path)
    assert again.pruned == (f"{LOW}/5/1", f"{MIDDLE}/0/0")
    assert [len(each.pruned) for each in (again.undo(), again.undo().undo(), again.undo().undo().undo())] == [1, 2, 0]
    assert torch.equal(again.kept(LOW), graph.kept(LOW))


def test_edits_do_not_write_the_arrays_anew_under_another_name(tmp_path):
    toy_graph().save(tmp_path)
    before = arrays_file(tmp_path).name
    GraphResult.load(tmp_path).prune([f"{TOP}/0/0"]).save(tmp_path)
    assert arrays_file(tmp_path).name == before
    assert GraphResult.load(tmp_path).pruned == (f"{TOP}/0/0",)


def test_a_later_graph_takes_the_place_of_an_earlier_and_of_nothing_else(tmp_path):
    (tmp_path / "graph-of-mine.safetensors").write_bytes(b"not ours")
    toy_graph().save(tmp_path)
    later = toy_graph(seed=1)
    later.save(tmp_path)
    assert_same_graph(GraphResult.load(tmp_path), later)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "graph-of-mine.safetensors").read_bytes() == b"not ours"


@pytest.mark.parametrize("calls", [0, 1])
def test_an_interrupted_saving_loses_nothing(tmp_path, monkeypatch, calls):
    """Stopped when the arrays, or the JSON after them, were about to take their names."""
    earlier, later = toy_graph().prune([f"{TOP}/0/0"]), toy_graph(seed=1)
    earlier.save(tmp_path)
    replace, made = os.replace, []

    def stop(source, target):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            later.save(tmp_path)
        assert len(made) == calls
    assert_same_graph(GraphResult.load(tmp_path), earlier)
    later.save(tmp_path)
    assert_same_graph(GraphResult.load(tmp_path), later)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_saving_stopped_before_the_old_arrays_are_gone_is_complete(tmp_path, monkeypatch):
    toy_graph().save(tmp_path)
    later = toy_graph(seed=1)

    def stop(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            later.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert_same_graph(GraphResult.load(tmp_path), later)


def test_a_first_saving_that_was_interrupted_is_no_graph(tmp_path):
    toy_graph().save(tmp_path)
    (tmp_path / "graph.json").unlink()
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DatasetError, match=r"graph\.json: missing; nothing was saved to this folder, or the sav"):
            GraphResult.load(folder)


def test_the_file_in_place_of_the_folder(tmp_path):
    path = toy_graph().save(tmp_path)
    with pytest.raises(DatasetError, match=rf"{path}: a file; give the folder that it is in, {tmp_path}"):
        GraphResult.load(path)


def test_what_cannot_be_read_again_is_not_written_over_what_can(tmp_path):
    graph = toy_graph()
    graph.save(tmp_path)
    layer = graph.layers[0]
    lost = dataclasses.replace(layer, position=layer.position.clone().fill_(torch.nan))
    with pytest.raises(DatasetError, match=r"layer 'features\.12', position: holds NaN"):
        dataclasses.replace(graph, layers=(lost, *graph.layers[1:])).save(tmp_path)
    with pytest.raises(TypeError):
        dataclasses.replace(toy_graph(seed=1), meta={"generator": object()}).save(tmp_path)
    assert_same_graph(GraphResult.load(tmp_path), graph)


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
@pytest.mark.parametrize("name", ["graph.json", "graph-*.safetensors"])
def test_truncated_files_are_refused(tmp_path, share, name):
    toy_graph().save(tmp_path)
    (path,) = tmp_path.glob(name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DatasetError, match=r"graph\.json: .*; save the graph again"):
        GraphResult.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "{}", "3", "null", '"graph"', '{"format": 1, "arrays": true}', "\xff", "[" * 9, "[" * 200_000]
)
def test_foreign_files_are_refused(tmp_path, text):
    (tmp_path / "graph.json").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=r"graph\.json: not a saved graph: .*; save the graph again"):
        GraphResult.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, expected 1: another version wrote it"),
        (
            {"arrays": "graph-0123456789abcdef.safetensors"},
            "its arrays, graph-0123456789abcdef.safetensors, are missing",
        ),
        ({"layers": []}, r"layers \[\]; expected one or more"),
        ({"image_size": [0, 96]}, r"image_size \(0, 96\); expected a height and a width"),
        ({"image_size": 64}, "not a saved graph: TypeError"),
        ({"image_size": [math.inf, 32]}, "not a saved graph: OverflowError"),
        ({"edits": [["features.12/0/0", "features.12/9/0"]]}, "edits: unknown pattern 'features.12/9/0'"),
        ({"edits": ["features.12/0/0"]}, "edits: unknown pattern"),
        ({"settings": 3}, "not a saved graph: TypeError"),
        ({"settings": {}}, "settings: no 'options' that the graph was learnt with"),
        ({"settings": {"options": 3}}, "settings, options: .*must be a mapping"),
        ({"settings": {"options": {"patern": 3}}}, "settings, options: .*'patern'"),
        ({"settings": {"options": {"tau": -1}}}, "settings, options: tau must be at least 0 and finite, got -1"),
        ({"seconds": None}, "not a saved graph: TypeError"),
    ],
)
def test_documents_changed_by_hand_are_refused(tmp_path, change, message):
    toy_graph().save(tmp_path)
    rewrite_json(tmp_path, lambda document: document.update(change))
    with pytest.raises(DatasetError, match=message):
        GraphResult.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "features.8"}, "expected one or more, each once"),
        ({"grid": {"rows": {}, "columns": {}}}, "not a saved graph: TypeError"),
        ({"grid": {"rows": dict(length=4, size=64, first=7.5, step=-16)}}, "not a saved graph: KeyError"),
        (
            {"grid": {axis: dict(length=4, size=64, first=7.5, step=-16) for axis in ("rows", "columns")}},
            r"layer 'features\.12', grid: Axis\(length=4",
        ),
        *(
            (
                {"grid": {axis: dict(length=4, size=64, first=7.5, step=16) | wrong for axis in ("rows", "columns")}},
                r"layer 'features\.12', grid: Axis\(length=4",
            )
            for wrong in ({"first": math.nan}, {"first": -math.inf}, {"step": math.inf})
        ),
    ],
)
def test_layers_changed_by_hand_are_refused(tmp_path, change, message):
    toy_graph().save(tmp_path)
    rewrite_json(tmp_path, lambda document: document["layers"][0].update(change))
    with pytest.raises(DatasetError, match=message):
        GraphResult.load(tmp_path)


@pytest.mark.parametrize("name", ["../{}", "{}/../{}", "/etc/passwd", "other/{}", "{}\n", ".\\{}"])
def test_arrays_are_read_from_nowhere_else(tmp_path, name):
    folder = tmp_path / "a" / "b"
    toy_graph().save(folder)
    file = arrays_file(folder)
    for elsewhere in (tmp_path / "a", folder / "other"):
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / file.name).write_bytes(file.read_bytes())
    rewrite_json(folder, lambda document: document.update(arrays=name.format(file.name, file.name)))
    with pytest.raises(DatasetError, match="is no name of a file of arrays"):
        GraphResult.load(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0.position", put((1, 0), np.nan), r"layer 'features\.12', position: holds NaN or infinity"),
        ("2.width", put(0, np.inf), r"layer 'features\.4', width: holds NaN or infinity"),
        ("1.scale", put(2, np.nan), r"layer 'features\.8', scale: holds NaN or infinity"),
        ("1.scale", put(3, np.inf), r"layer 'features\.8', scale: filter 3 has patterns, .* infinity"),
        ("1.scale", put(3, 0.0), r"layer 'features\.8', scale: 0\.0, expected above 0"),
        ("2.width", put(1, 0.0), r"layer 'features\.4', width: 0\.0, expected above 0"),
        ("2.spread", put(1, -2.5), r"layer 'features\.4', spread: -2\.5, expected above 0"),
        (
            "1.weight",
            put(2, [-0.5, 1.5]),
            r"layer 'features\.8', weight: features\.8/1/1 has \[-0\.5, 1\.5\], expected",
        ),
        (
            "1.weight",
            put(2, [0.5, 0.25]),
            r"layer 'features\.8', weight: features\.8/1/1 has \[0\.5, 0\.25\], expected",
        ),
        ("1.weight", put(2, [0.0, 0.0]), r"layer 'features\.8', weight: features\.8/1/1 has \[0\.0, 0\.0\], expected"),
        ("1.weight", put(5, [0.5, 0.5]), r"layer 'features\.8', weight: features\.8/3/2 has \[0\.5, 0\.5\], expected"),
        ("0.weight", put(0, [0.0, 1.0]), r"layer 'features\.12', weight: features\.12/0/0 has \[0\.0, 1\.0\], expect"),
        ("learnt_from.1.point", put((0, 0, 0), np.nan), r"learnt_from, layer 'features\.8', point: holds NaN"),
        ("1.parents", put((0, 0), 4), r"layer 'features\.8', parents: -1 to 4, expected -1 to 3"),
        ("1.parents", put((0, 0), -2), r"layer 'features\.8', parents: -2 to 3, expected -1 to 3"),
        ("0.parents", put((0, 0), 0), r"layer 'features\.12', parents: -1 to 0, expected -1 to -1"),
        ("2.filter", put(0, 7), r"layer 'features\.4', filter: 1 to 7, expected 0 to 6"),
        ("0.position", lambda a: a[:3], r"position: torch\.float64 of \(3, 2\), expected torch\.float64 of \(4, 2\)"),
        ("0.position", lambda a: a[:, :1], r"of \(4, 1\), expected torch\.float64 of \(4, 2\)"),
        ("0.sway", lambda a: a[:, :1], r"sway: torch\.float64 of \(4, 1, 0\), expected .* of \(4, 2, 0\)"),
        ("1.weight", lambda a: a[:, :1], r"weight: torch\.float64 of \(6, 1\), expected .* of \(6, 2\)"),
        ("0.score", lambda a: a[None], r"score: torch\.float64 of \(1, 4\), expected torch\.float64 of \(4,\)"),
        ("0.width", lambda a: a.astype(np.float32), r"width: torch\.float32 of \(4,\), expected torch\.float64"),
        ("learnt_from.images", lambda a: a[:5], r"mirrored: torch\.bool of \(6,\), expected torch\.bool of \(5,\)"),
        ("learnt_from.2.score", lambda a: a[:5], r"'features\.4', score: .* of \(5, 8\), expected .* of \(6, 8\)"),
        ("learnt_from.2.score", lambda a: a[:, :7], r"'features\.4', score: .* of \(6, 7\), expected .* of \(6, 8\)"),
        ("0.score", put(0, 1.25), "were changed after they were saved"),
    ],
)
def test_arrays_changed_by_hand_are_refused(tmp_path, name, change, message):
    toy_graph().save(tmp_path)
    rewrite_array(tmp_path, name, change)
    with pytest.raises(DatasetError, match=message) as caught:
        GraphResult.load(tmp_path)
    assert str(tmp_path / "graph.json") in str(caught.value)
    assert "save the graph again" in str(caught.value)


def test_an_array_that_is_missing_is_named(tmp_path):
    toy_graph().save(tmp_path)
    arrays = {
        key: np.array(value) for key, value in read_safetensors(arrays_file(tmp_path)).items() if key != "1.width"
    }
    write_safetensors(arrays_file(tmp_path), arrays)
    with pytest.raises(DatasetError, match=r"not a saved graph: KeyError: '1\.width'"):
        GraphResult.load(tmp_path)


def test_layers_never_leave_the_folder(tmp_path):
    graph = toy_graph(1, learnt=False)
    hostile = dataclasses.replace(graph, layers=(dataclasses.replace(graph.layers[0], layer="../../x"),))
    hostile.save(tmp_path / "a" / "b" / "c")
    assert_same_graph(GraphResult.load(tmp_path / "a" / "b" / "c"), hostile)
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"c"}


def test_without_safetensors_nothing_is_written(tmp_path, monkeypatch):
    hide(monkeypatch, ["safetensors"])
    with pytest.raises(MissingExtraError, match=r"lightning-interp\[io\]"):
        graph_files.save_graph(toy_graph(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
