"""``lightning-interp graph``: look at a saved explanatory graph, edit it, and write it in other forms."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lightning_interp.drawing.text import clean
from lightning_interp.errors import DatasetError, InterpError
from lightning_interp.methods.graph.maths.editing import prune, set_pruned
from lightning_interp.methods.graph.page import write_graph_page
from lightning_interp.methods.graph.patterns import PatternLayer
from lightning_interp.methods.graph.result import GraphResult

_PARENTS = 3  # that are shown of a pattern


def run_graph(args: Sequence[str]) -> None:
    """Run ``lightning-interp graph`` with these arguments; none show the help.

    Raises:
        InterpError: If the folder holds no graph, an argument does not fit it, or a file cannot be written.
        SystemExit: After the help, or with 2 if the arguments are not understood.
    """
    options = _parser().parse_args(list(args) or ["--help"])
    try:
        options.run(options)
    except OSError as error:
        raise InterpError(f"cannot read or write: {error}") from error


def _parser() -> ArgumentParser:
    about = "Look at an explanatory graph that was saved to a folder, edit it, and write it in other forms."
    learn = "To learn one and save it: lightning-interp graph --config CONFIG --ckpt FILE"
    parser = ArgumentParser("lightning-interp graph", description=about, epilog=learn)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: object, text: str) -> ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.add_argument("folder", type=Path, metavar="FOLDER", help="where the graph was saved")
        added.set_defaults(run=run)
        return added

    show = verb("show", _show, "print the strongest patterns of each layer with their heaviest parents")
    show.add_argument("--rows", type=int, default=10, metavar="N", help="patterns a layer (10)")
    export = verb("export", _export, "write the graph as GraphML or JSON, by the name of the file")
    export.add_argument("out", type=Path, metavar="OUT")
    listed = "as the page exports it: these are taken out, and every other pattern is put back"
    _add_names(verb("prune", _prune, "take patterns out, by name or as the page exported them"), listed)
    _add_names(verb("restore", _restore, "put pruned patterns back"), "those to put back")
    verb("undo", _undo, "undo the last prune or restore")
    page = verb("page", _page, "write the page to browse the graph, without pictures: they are not in the folder")
    page.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file to write")
    return parser


def _add_names(parser: ArgumentParser, listed: str) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--names", nargs="+", metavar="NAME", help="layer/filter/number")
    group.add_argument("--file", type=Path, metavar="FILE", help=f'JSON: {{"pruned": [NAME, ...]}}, {listed}')


def _show(options: Namespace) -> None:
    graph = GraphResult.load(options.folder)
    above: PatternLayer | None = None
    for layer in graph.layers:
        edges = int((layer.parents >= 0).sum())
        out = len(layer) - int(graph.kept(layer.layer).sum())
        print(f"{clean(layer.layer)}: {len(layer)} patterns, {edges} edges to parents, {out} pruned")
        rows = [_line(layer, above, pattern.row) for pattern in graph.rank(layer.layer, max(options.rows, 0))]
        print(_table(("pattern", "score", "x", "y", "width", "heaviest parents (weight)"), rows))
        above = layer


def _line(layer: PatternLayer, above: PatternLayer | None, row: int) -> list[str]:
    numbers = (layer.score[row], *layer.position[row], layer.width[row])
    parents = ""
    if above is not None:
        names = above.names()
        pairs = zip(layer.weight[row].tolist(), layer.parents[row].tolist(), strict=True)
        heaviest = sorted((pair for pair in pairs if pair[1] >= 0), reverse=True)[:_PARENTS]
        parents = ", ".join(f"{clean(names[parent])} ({weight:.2f})" for weight, parent in heaviest)
    return [
        clean(layer.names()[row]),
        *(f"{float(n):.{d}f}" for n, d in zip(numbers, (2, 1, 1, 1), strict=True)),
        parents,
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i in {0, len(head) - 1} else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *rows)
    ]
    return "".join(f"  {line.rstrip()}\n" for line in lines)


def _export(options: Namespace) -> None:
    print(GraphResult.load(options.folder).export(options.out))


def _prune(options: Namespace) -> None:
    graph = GraphResult.load(options.folder)
    change = prune if options.names else set_pruned
    _replace(graph, change(graph, _names(options)), options.folder)


def _restore(options: Namespace) -> None:
    graph = GraphResult.load(options.folder)
    _replace(graph, graph.restore(_names(options)), options.folder)


def _undo(options: Namespace) -> None:
    graph = GraphResult.load(options.folder)
    _replace(graph, graph.undo(), options.folder)


def _replace(before: GraphResult, after: GraphResult, folder: Path) -> None:
    if after.edits == before.edits:
        print(f"nothing to change; {len(before.pruned)} patterns are pruned")
        return
    after.save(folder)
    print(f"{len(after.pruned)} patterns are pruned, before {len(before.pruned)}")


def _names(options: Namespace) -> list[str]:
    if options.names:
        return list(options.names)
    try:
        names = json.loads(options.file.read_text(encoding="utf-8"))["pruned"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{options.file}: no pruned list: {type(error).__name__}: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f'{options.file}: expected {{"pruned": [names]}}')
    return names


def _page(options: Namespace) -> None:
    print(write_graph_page(GraphResult.load(options.folder), None, options.out))
