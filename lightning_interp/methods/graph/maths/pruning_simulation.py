"""A simulated user who prunes patterns that are not on the part that he has in mind."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lightning_interp.methods.graph.maths.and_or import Box, Latent, PartTemplate, PartTemplates
from lightning_interp.methods.graph.patterns import Inference, PatternGraph

# The user takes out what is beside the part in more than this share of the images that he looks at.
_TOLERATED = 0.5


def off_part(points: Tensor, scores: Tensor, boxes: Mapping[int, Box]) -> Tensor:
    """Patterns that lie outside the part's box in more than half of the images with a box.

    The simulated user of Zhang, Cao, Wang, Zhu and Wu, "Interactively transferring CNN patterns for part localization",
    2017. Images in which a pattern is not found do not count; one that is never found stays.

    Args:
        points: ``(N, V, 2)``, x and y in pixels.
        scores: ``(N, V)``; 0 or less where a pattern is not found.
        boxes: By row of the image: left, top, right and bottom.

    Returns:
        ``(V,)`` bool.
    """
    rows = torch.tensor(list(boxes), dtype=torch.long)
    sides = torch.tensor(list(boxes.values()), dtype=torch.float64).reshape(-1, 1, 4)
    seen, own = scores[rows] > 0, points[rows]
    outside = ((own < sides[..., :2]) | (own > sides[..., 2:])).any(-1) & seen
    return outside.sum(0) > _TOLERATED * seen.sum(0)


def patterns_off_part(graph: PatternGraph, inference: Inference, boxes: Mapping[int, Box]) -> list[str]:
    """Names of the nodes of a graph that the simulated user takes out, for ``GraphResult.prune``.

    Args:
        graph: The graph.
        inference: Where its patterns are.
        boxes: By row of the inference: left, top, right and bottom, in the images as they are.
    """
    names: list[str] = []
    for layer in graph.layers:
        places = inference.upright(layer.layer, graph.image_size[1])
        off = off_part(places, inference[layer.layer].score, boxes) & graph.kept(layer.layer)
        names += [name for name, out in zip(layer.names(), off.tolist(), strict=True) if out]
    return names


def prune_part(part: PartTemplates, latent: Latent, boxes: Mapping[int, Box]) -> PartTemplates:
    """The part without the latent patterns that the simulated user takes out; no box more is needed.

    A template of which nothing would be left stays as it is.

    Args:
        part: The part.
        latent: Latent patterns that it was learnt from.
        boxes: By row of the image.
    """
    off = off_part(latent.points, latent.scores, boxes)

    def pruned(template: PartTemplate) -> PartTemplate:
        kept = ~off[template.pattern]
        if not kept.any():
            return template
        fields = {name: getattr(template, name)[kept] for name in ("pattern", "offset", "variance")}
        return replace(template, **fields)

    return replace(part, templates={number: pruned(each) for number, each in part.templates.items()})
