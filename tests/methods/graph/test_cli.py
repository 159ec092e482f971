"""The command `lightning-interp graph` on a saved graph."""

import json
import sys
from dataclasses import replace

import pytest

from lightning_interp.cli import main
from lightning_interp.methods.graph.result import GraphResult
from tests.helpers.graphs import LAYERS, assert_same_graph, toy_graph

ONE, TWO = f"{LAYERS[1]}/1/0", f"{LAYERS[2]}/4/0"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    toy_graph().save(tmp_path / "graph")
    return tmp_path / "graph"


def run(capsys, *args):
    assert main(["graph", *map(str, args)]) == 0
    return capsys.readouterr().out


def refused(capsys, *args):
    assert main(["graph", *map(str, args)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("lightning-interp: error: ")
    assert error.count("\n") == 1
    return error


def test_show_by_hand(folder, capsys):
    graph = toy_graph()
    said = run(capsys, "show", folder, "--rows", 1)
    assert "features.8: 6 patterns, 11 edges to parents, 0 pruned" in said
    best = graph.rank(LAYERS[1], 1)[0]
    layer, above = graph[LAYERS[1]], graph[LAYERS[0]].names()
    first, second = layer.weight[best.row].sort(descending=True).indices.tolist()
    parents = ", ".join(
        f"{above[layer.parents[best.row, i]]} ({layer.weight[best.row, i]:.2f})" for i in (first, second)
    )
    (line,) = [line for line in said.splitlines() if line.strip().startswith(best.name)]
    assert line.endswith(parents)
    numbers = [float(cell) for cell in line.split()[1:5]]
    expected = [best.score, *layer.position[best.row].tolist(), layer.width[best.row].item()]
    assert numbers == pytest.approx(expected, abs=0.051)
    assert said.count("features.12/") == 1 + 2


def test_pruned_patterns_are_counted_and_not_shown(folder, capsys):
    run(capsys, "prune", folder, "--names", ONE)
    said = run(capsys, "show", folder)
    assert "features.8: 6 patterns, 11 edges to parents, 1 pruned" in said
    assert not [line for line in said.splitlines() if line.strip().startswith(ONE)]


def test_prune_restore_and_undo_change_the_folder(folder, capsys):
    assert run(capsys, "prune", folder, "--names", ONE, TWO) == "2 patterns are pruned, before 0\n"
    assert GraphResult.load(folder).pruned == (ONE, TWO)
    assert run(capsys, "restore", folder, "--names", ONE) == "1 patterns are pruned, before 2\n"
    assert GraphResult.load(folder).pruned == (TWO,)
    run(capsys, "undo", folder)
    run(capsys, "undo", folder)
    assert_same_graph(GraphResult.load(folder), toy_graph())
    assert run(capsys, "undo", folder) == "nothing to change; 0 patterns are pruned\n"


def test_a_list_as_the_page_exports_it(folder, tmp_path, capsys):
    listed = tmp_path / "pruned.json"
    run(capsys, "prune", folder, "--names", ONE)
    listed.write_text(json.dumps({"pruned": [TWO]}))
    assert run(capsys, "prune", folder, "--file", listed) == "1 patterns are pruned, before 1\n"
    assert GraphResult.load(folder).pruned == (TWO,)
    assert run(capsys, "prune", folder, "--file", listed) == "nothing to change; 1 patterns are pruned\n"
    run(capsys, "undo", folder)
    assert GraphResult.load(folder).pruned == (ONE,)
    listed.write_text(json.dumps({"pruned": []}))
    run(capsys, "prune", folder, "--file", listed)
    assert GraphResult.load(folder).pruned == ()


def test_a_list_of_what_to_put_back(folder, tmp_path, capsys):
    run(capsys, "prune", folder, "--names", ONE, TWO)
    listed = tmp_path / "pruned.json"
    listed.write_text(json.dumps({"pruned": [TWO]}))
    run(capsys, "restore", folder, "--file", listed)
    assert GraphResult.load(folder).pruned == (ONE,)


@pytest.mark.parametrize("text", ["", "[]", '{"other": []}', '{"pruned": "a"}', '{"pruned": [1]}'])
def test_a_file_that_is_no_list_is_refused(folder, tmp_path, capsys, text):
    listed = tmp_path / "pruned.json"
    listed.write_text(text)
    assert str(listed) in refused(capsys, "prune", folder, "--file", listed)
    assert GraphResult.load(folder).pruned == ()


def test_errors_in_one_line(folder, tmp_path, capsys):
    assert "did you mean" in refused(capsys, "prune", folder, "--names", f"{LAYERS[1]}/1/9")
    assert str(tmp_path / "nothing") in refused(capsys, "show", tmp_path / "nothing")
    assert "nothing.json" in refused(capsys, "prune", folder, "--file", tmp_path / "nothing.json")
    refused(capsys, "export", folder, tmp_path / "graph.txt")


def test_what_cannot_be_written_is_told_in_one_line(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, "export", folder, tmp_path / "file" / "graph.json")
    assert "folder" in refused(capsys, "page", folder, "--out", _made(tmp_path / "folder"))


def _made(folder):
    folder.mkdir()
    return folder


def test_help_says_how_a_graph_is_learnt_and_what_a_list_does(capsys):
    def said(*args):
        with pytest.raises(SystemExit):
            main(["graph", *args])
        return " ".join(capsys.readouterr().out.split())

    for args in ([], ["--help"]):
        assert "lightning-interp graph --config CONFIG --ckpt FILE" in said(*args)
    assert "every other pattern is put back" in said("prune", "--help")
    assert "every other pattern" not in said("restore", "--help")


def test_export(folder, tmp_path, capsys):
    for kind in ("graphml", "json"):
        out = tmp_path / f"out.{kind}"
        assert run(capsys, "export", folder, out) == f"{out}\n"
        assert ONE in out.read_text()


def test_page_without_pictures(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run(capsys, "page", folder, "--out", out) == f"{out}\n"
    assert "written without pictures" in out.read_text()


def test_an_unknown_verb_and_no_verb(capsys):
    for args, code in ((["paint"], 2), ([], 0), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(["graph", *args])
        assert ended.value.code == code
    assert "undo the last prune or restore" in capsys.readouterr().out


def test_names_of_layers_cannot_steer_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    graph = toy_graph(layers=1)
    found = replace(graph.learnt_from, layers={"\x1b[2J": graph.learnt_from.layers[LAYERS[0]]})
    replace(graph, layers=(replace(graph.layers[0], layer="\x1b[2J"),), learnt_from=found).save(tmp_path)
    assert "\x1b" not in run(capsys, "show", tmp_path)
