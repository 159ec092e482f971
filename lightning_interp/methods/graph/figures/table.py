"""The evaluation of an explanatory graph as a table: patterns beside raw filters and controls."""

from lightning_interp.methods.graph.patterns import PatternGraph

_ROWS = {
    "patterns": "",
    "raw filters": "_raw",
    "raw filters, on the patterns' images": "_raw_same",
    "patterns held still": "_frozen",
    "where expected": "_expected",
    "image centre": "_centre",
    "random": "_random",
}
_COLUMNS = {
    "location instability": "instability",
    "AAAI 2018": "instability_aaai2018",
    "displacement correlation": "correlation",
    "by chance": "correlation_chance",
    "R2": "r2",
    "steadier than the centre": "beats_centre",
    "purity": "purity",
    "purity by chance": "purity_area",
    "best constant": "purity_best_constant",
}


def evaluation_table(graph: PatternGraph, layer: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a layer's table, a row for each of what was judged; columns that nothing fills are left out.

    Args:
        graph: With an evaluation in its ``meta``.
        layer: Module path.
    """
    figures = graph.meta["evaluation"]
    table = {
        title: [figures[f"{layer}/{quantity}{suffix}"] for suffix in _ROWS.values()]
        for title, quantity in _COLUMNS.items()
    }
    table = {title: values for title, values in table.items() if any(value == value for value in values)}
    rows = [[name, *(_text(values[i]) for values in table.values())] for i, name in enumerate(_ROWS)]
    return ["", *table], rows


def _text(value: float) -> str:
    return "" if value != value else f"{value:.3f}"


def page_scores(graph: PatternGraph) -> dict[str, dict[str, str]]:
    """The tables of all layers, turned: by layer and quantity, by what was judged; empty without an evaluation."""
    found: dict[str, dict[str, str]] = {}
    for layer in graph.names if graph.meta.get("evaluation") else ():
        columns, rows = evaluation_table(graph, layer)
        for number, title in enumerate(columns[1:], start=1):
            found[f"{layer}: {title}"] = {row[0]: row[number] for row in rows}
    return found
