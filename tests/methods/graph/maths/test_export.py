"""Graphs for other programs: what is written is what the graph says."""

import dataclasses
import json

import networkx
import pytest
import torch

from lightning_interp import DatasetError, MissingExtraError
from tests.helpers.absent import hide
from tests.helpers.graphs import toy_graph


@pytest.fixture
def graph():
    return toy_graph(3).prune(["features.8/1/1"])


def rename(graph, name):
    """With another name of the top layer."""
    top, *others = graph.layers
    return dataclasses.replace(graph, layers=(dataclasses.replace(top, layer=name), *others), learnt_from=None)


def test_nodes_and_edges_by_hand(graph):
    found = graph.to_networkx()
    assert isinstance(found, networkx.DiGraph)
    assert list(found) == [name for layer in graph.layers for name in layer.names()]
    middle, top = graph.layers[1], graph.layers[0]
    assert found.nodes["features.8/1/1"] == {
        "layer": "features.8",
        "filter": 1,
        "x": float(middle.position[2, 0]),
        "y": float(middle.position[2, 1]),
        "width": float(middle.width[2]),
        "score": float(middle.score[2]),
        "pruned": True,
    }
    assert [name for name, pruned in found.nodes(data="pruned") if pruned] == ["features.8/1/1"]
    # Every pattern below the top has two parents, but for the last one of each layer.
    assert found.number_of_edges() == 6 * 2 - 1 + 8 * 2 - 1
    parent = int(middle.parents[2, 1])
    edge = found.edges[top.names()[parent], "features.8/1/1"]
    dx, dy = (middle.position[2] - top.position[parent]).tolist()
    assert edge == {"dx": dx, "dy": dy, "weight": float(middle.weight[2, 1])}
    assert {name for name in found if not found.pred[name]} == set(top.names())
    assert len(found.pred["features.4/5/1"]) == 1
    assert networkx.is_directed_acyclic_graph(found)


def test_facts_of_the_graph(graph):
    facts = graph.to_networkx().graph
    assert json.loads(json.dumps(facts)) == facts
    assert facts == {
        "layers": ["features.12", "features.8", "features.4"],
        "image_size": [64, 96],
        "settings": {"options": {"iterations": 20, "tau": 0.1}},
        "meta": {"epoch": 3, "category": "bird"},
        "seconds": 1.5,
    }


@pytest.mark.parametrize("name", ["features.12", "<a & \"b\"> 'c'/ü", ""])
def test_graphml_is_read_again(graph, tmp_path, name):
    graph = rename(graph, name)
    expected = graph.to_networkx()
    assert graph.export(tmp_path / "graph.graphml") == tmp_path / "graph.graphml"
    again = networkx.read_graphml(tmp_path / "graph.graphml")
    assert dict(again.nodes(data=True)) == dict(expected.nodes(data=True))
    assert list(again.edges(data=True)) == list(expected.edges(data=True))
    facts = {key: value if key == "seconds" else json.loads(value) for key, value in again.graph.items() if value != {}}
    assert facts == expected.graph


def test_json_is_read_again(graph, tmp_path):
    expected = graph.to_networkx()
    data = json.loads(graph.export(tmp_path / "new" / "graph.json").read_text())
    again = networkx.node_link_graph(data, edges="edges")
    assert networkx.utils.graphs_equal(again, expected)
    assert data["nodes"][0]["id"] == "features.12/0/0"
    assert set(data["edges"][0]) == {"source", "target", "dx", "dy", "weight"}


def test_a_layer_alone_has_no_edges(tmp_path):
    alone = toy_graph(1, parents=0)
    assert alone.to_networkx().number_of_edges() == 0
    alone.export(tmp_path / "graph.graphml")
    assert len(networkx.read_graphml(tmp_path / "graph.graphml")) == 4


def test_a_layer_without_patterns(tmp_path):
    graph = toy_graph(2, parents=0, learnt=False)
    top = graph.layers[0]
    fields = ("filter", "position", "width", "spread", "score", "parents", "weight", "sway")
    empty = dataclasses.replace(top, **{field: getattr(top, field)[:0] for field in fields})
    graph = dataclasses.replace(graph, layers=(empty, graph.layers[1]))
    assert (len(graph.to_networkx()), graph.to_networkx().number_of_edges()) == (6, 0)
    assert torch.equal(graph.kept("features.12"), torch.zeros(0, dtype=torch.bool))
    assert len(graph.rank_for_pruning()) == 6


@pytest.mark.parametrize("name", ["graph.gml", "graph", "graph.JSON.gz"])
def test_unknown_suffixes_are_refused(graph, tmp_path, name):
    with pytest.raises(DatasetError, match=r"unknown suffix '.*'; graphs are exported as \.graphml or \.json"):
        graph.export(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_json_needs_no_networkx(graph, tmp_path, monkeypatch):
    hide(monkeypatch, ["networkx"])
    with pytest.raises(MissingExtraError, match=r"pip install 'lightning-interp\[graph\]'"):
        graph.export(tmp_path / "graph.graphml")
    graph.export(tmp_path / "graph.json")
    assert [path.name for path in tmp_path.iterdir()] == ["graph.json"]
