"""Explanatory graphs for other programs: networkx, GraphML, node-link JSON."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lightning_interp._extras import require
from lightning_interp.methods.graph.patterns import PatternGraph

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: PatternGraph) -> "networkx.DiGraph":
    """The graph with patterns as nodes, by name, and edges from parent to child.

    Nodes have ``layer``, ``filter``, ``x`` and ``y`` (mu), ``width`` (all three in pixels), ``score`` and ``pruned``;
    edges ``dx`` and ``dy`` (mu of the child less mu of the parent, in pixels) and ``weight`` (the parent's share of
    the displacement); the graph ``layers`` (top first), ``image_size`` (height, width), ``settings``, ``meta`` and
    ``seconds``. All of them are plain numbers, strings, lists and dicts.

    Raises:
        MissingExtraError: If networkx is not installed.
    """
    found = require("networkx").DiGraph(**_facts(graph))
    found.add_nodes_from(_nodes(graph))
    found.add_edges_from(_edges(graph))
    return found


def to_graphml(graph: PatternGraph) -> str:
    """GraphML of :func:`to_networkx`; what of the graph's own attributes is a list or a dict is written as JSON.

    Raises:
        MissingExtraError: If networkx is not installed.
    """
    found = to_networkx(graph)
    found.graph = {key: value if isinstance(value, float) else json.dumps(value) for key, value in found.graph.items()}
    return "\n".join(require("networkx").generate_graphml(found)) + "\n"


def to_node_link(graph: PatternGraph) -> dict[str, Any]:
    """Node-link data with the attributes of :func:`to_networkx`, for ``networkx.node_link_graph`` (``edges="edges"``).

    Needs no networkx.
    """
    return {
        "directed": True,
        "multigraph": False,
        "graph": _facts(graph),
        "nodes": [{"id": name, **facts} for name, facts in _nodes(graph)],
        "edges": [{"source": parent, "target": child, **facts} for parent, child, facts in _edges(graph)],
    }


def _facts(graph: PatternGraph) -> dict[str, Any]:
    return {
        "layers": list(graph.names),
        "image_size": list(graph.image_size),
        "settings": dict(graph.settings),
        "meta": dict(graph.meta),
        "seconds": float(graph.seconds),
    }


def _nodes(graph: PatternGraph) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for layer in graph.layers:
        columns = (layer.filter, *layer.position.T, layer.width, layer.score, ~graph.kept(layer.layer))
        keys = ("filter", "x", "y", "width", "score", "pruned")
        for name, *values in zip(layer.names(), *(column.tolist() for column in columns), strict=True):
            yield name, {"layer": layer.layer, **dict(zip(keys, values, strict=True))}


def _edges(graph: PatternGraph) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for above, layer in zip(graph.layers, graph.layers[1:], strict=False):
        parents, children, edge = above.names(), layer.names(), layer.parents >= 0
        columns = (layer.parents[edge], edge.nonzero()[:, 0], *layer.offset(above)[edge].T, layer.weight[edge])
        for parent, child, dx, dy, weight in zip(*(column.tolist() for column in columns), strict=True):
            yield parents[parent], children[child], {"dx": dx, "dy": dy, "weight": weight}
