"""One page about an explanatory graph: browse its patterns, follow its edges, tick patterns to prune."""

import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_interp.drawing.pages import page_environment
from lightning_interp.methods.graph.figures.overview import overview
from lightning_interp.methods.graph.figures.patches import PATCH, Images, best_sights, jpeg, picture_of_row
from lightning_interp.methods.graph.patterns import Inference, PatternGraph, PatternLayer
from lightning_interp.results.files import write_text

Scores = Mapping[str, Mapping[str, float | str]]
"""By what was measured, by what it was measured on (raw filters, patterns, controls), a number or a text."""

_PATCHES = 6  # a pattern
_LONGEST = 256  # pixels of a picture in the page
_BYTES = 2_500_000  # of all pictures, which Base64 makes a third more


def write_graph_page(
    graph: PatternGraph, picture_of: Images | None, path: str | Path, scores: Scores | None = None
) -> Path:
    """Write one HTML file that holds all it shows; it needs no network and works from the file system.

    The pictures are in it whole, and patches are cut from them as they are looked at. If all of them would make the
    file large, those stay that most patterns need; the page says so. With 15,000 patterns of 15 parents it has less
    than 8 MB.

    Args:
        graph: What to show.
        picture_of: Gives image ``i`` of the probe set, ``(H, W, 3)`` uint8; None for a page without pictures.
        path: The file to write.
        scores: A table to show beside the graph: by measure, by what was measured, a number or a text. Give the
            controls (raw filters, the pattern held at its mean, the centre) as columns.

    Returns:
        The path.
    """
    pictures, inference = _pictures(graph, picture_of)
    environment = page_environment("lightning_interp.methods.graph")
    view = overview(graph)
    page = environment.get_template("graph_page.html.jinja").render(
        graph=graph,
        pictures=pictures,
        images=0 if graph.learnt_from is None else len(graph.learnt_from.images),
        patches=_PATCHES,
        nodes=sum(len(layer) for layer in graph.layers),
        edges=sum(int((layer.parents >= 0).sum()) for layer in graph.layers),
        columns=list(dict.fromkeys(name for row in (scores or {}).values() for name in row)),
        scores=scores or {},
        settings=json.dumps(dict(graph.settings), indent=1, default=str),
        data={
            "size": graph.image_size,
            "side": PATCH * min(graph.image_size),
            "layers": [_layer(graph, layer, inference) for layer in graph.layers],
            "overview": {"rows": view.rows, "edges": view.edges},
        },
    )
    write_text(Path(path), page)
    return Path(path)


def _pictures(graph: PatternGraph, picture_of: Images | None) -> tuple[list[str], Inference | None]:
    """Pictures as data URIs, those that most patterns need first, and the inference of these alone, in their order."""
    inference = graph.learnt_from
    if picture_of is None or inference is None:
        return [], None
    needed = Counter(
        sight.row
        for layer in graph.layers
        for sights in best_sights(inference, layer.layer, range(len(layer)), _PATCHES)
        for sight in sights
    )
    uris, rows, room = [], [], _BYTES
    for row, _ in needed.most_common():
        data = jpeg(picture_of_row(inference, picture_of, row), _LONGEST)
        room -= len(data)
        if room < 0:
            break
        uris.append(f"data:image/jpeg;base64,{b64encode(data).decode()}")
        rows.append(row)
    return uris, _only(inference, rows)


def _only(inference: Inference, rows: Sequence[int]) -> Inference:
    """The inference of some of its images."""
    chosen = torch.tensor(rows, dtype=torch.int64)
    layers = {
        name: replace(each, point=each.point[chosen], score=each.score[chosen], expected=each.expected[chosen])
        for name, each in inference.layers.items()
    }
    return replace(inference, images=inference.images[chosen], mirrored=inference.mirrored[chosen], layers=layers)


def _layer(graph: PatternGraph, layer: PatternLayer, inference: Inference | None) -> dict[str, Any]:
    """A layer's arrays, rounded to what the page shows; weights in thousandths."""
    sights: list[list[tuple[int, float | None, float | None]]] = [[] for _ in range(len(layer))]
    if inference is not None:
        found = best_sights(inference, layer.layer, range(len(layer)), _PATCHES)
        sights = [[(s.row, _round(s.x), _round(s.y)) for s in each] for each in found]
    edges = [
        [(parent, round(1000 * weight)) for parent, weight in zip(*pair, strict=True) if parent >= 0]
        for pair in zip(layer.parents.tolist(), layer.weight.tolist(), strict=True)
    ]
    return {
        "name": layer.layer,
        "filter": layer.filter.tolist(),
        "x": _rounded(layer.position[:, 0]),
        "y": _rounded(layer.position[:, 1]),
        "width": _rounded(layer.width),
        "score": _rounded(layer.score, 3),
        "parents": [[parent for parent, _ in each] for each in edges],
        "weight": [[weight for _, weight in each] for each in edges],
        "sights": sights,
        "pruned": (~graph.kept(layer.layer)).nonzero().flatten().tolist(),
        "order": layer.score.argsort(descending=True, stable=True).tolist(),
    }


def _rounded(values: Tensor, digits: int = 1) -> list[float | None]:
    return [_round(value, digits) for value in values.tolist()]


def _round(value: float, digits: int = 1) -> float | None:
    # JSON has no NaN.
    return round(value, digits) if math.isfinite(value) else None
