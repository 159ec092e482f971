"""Images drawn from the valid patterns of an explanatory graph: the network run once more on a few images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.engine import GraphLearner
from lightning_interp.methods.graph.maths.assignment import Synthesis, synthesise
from lightning_interp.methods.graph.patterns import LayerPatterns, PatternGraph
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.runner import prepare
from lightning_interp.probing.session import probing
from lightning_interp.probing.tap import tap

# Images that are drawn.
_SHOWN = 6


class Drawn(NamedTuple):
    """What a decoder drew of some images of a probe set.

    Attributes:
        layer: The layer that it draws from.
        images: ``(N, 3, H, W)`` as the probe set has them, or their mirror images where the graph is of those.
        made: What was drawn.
    """

    layer: str
    images: Tensor
    made: Synthesis


def check_decoder(decoder: nn.Module, learner: GraphLearner) -> str:
    """The layer that a decoder draws from: the first whose maps it takes.

    Args:
        decoder: From maps to images.
        learner: Once it has described its layers.

    Raises:
        DatasetError: If it takes the maps of no layer.
    """
    parameter = next(decoder.parameters(), torch.empty(0))
    reasons = []
    for name, info in learner.infos.items():
        try:
            with probing(decoder):
                drawn = tuple(decoder(torch.zeros(1, info.units, info.height, info.width).to(parameter)).shape)
        except Exception as error:  # The decoder is the user's: anything may go wrong in it.
            reasons.append(f"{name}: {error}")
            continue
        if drawn == (1, 3, *learner.image_size):
            return name
        reasons.append(f"{name}: draws {drawn}, not {(1, 3, *learner.image_size)}")
    raise DatasetError(f"the decoder fits none of the layers ({'; '.join(reasons)}); recipes/graph_decoder trains one")


@torch.no_grad()
def draw_images(
    decoder: nn.Module,
    graph: PatternGraph,
    learner: GraphLearner,
    module: nn.Module,
    forward: Callable[[Tensor], Any] | None = None,
) -> Drawn:
    """Draw some of the images that the graph was learnt from.

    Args:
        decoder: From maps of one of the layers to images.
        graph: With ``learnt_from``.
        learner: What learnt it.
        module: The network.
        forward: How to call it on prepared images.
    """
    name, seen = check_decoder(decoder, learner), graph.learnt_from
    assert seen is not None
    count = len(seen.images)
    rows = torch.tensor([row * count // _SHOWN for row in range(_SHOWN)] if count > _SHOWN else list(range(count)))
    images = torch.stack([learner.probe.image(int(seen.images[row])) for row in rows])
    flip = seen.mirrored[rows]
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    with probing(module), probing(decoder), tap(resolve_layers(module, [name])) as taps:
        (module if forward is None else forward)(prepare(images, module, learner.probe.normalize))
        maps = taps.collect()[name].to(next(decoder.parameters(), torch.empty(0)))
        own = LayerPatterns(*(each[rows] for each in (seen[name].point, seen[name].score, seen[name].expected)))
        made = synthesise(decoder, maps, graph[name], own, among=graph.kept(name))
    return Drawn(name, images, made)
