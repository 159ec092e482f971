"""Gradients of logits with respect to the activations of a layer, which no parameter's gradient notices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.errors import LayerError


class Gradients(NamedTuple):
    """Activations of a layer and the slopes of the logits there.

    Attributes:
        maps: ``(B, C, h, w)`` float32.
        slopes: ``(B, K, C, h, w)`` float32.
    """

    maps: Tensor
    slopes: Tensor


def layer_gradients(layer: nn.Module, name: str, images: Tensor, logits: Callable[[Tensor], Tensor]) -> Gradients:
    """Activations and slopes at one layer.

    Works under ``no_grad`` and outside inference mode (see :func:`~lightning_interp.probing.session.probing`), and by
    ``torch.autograd.grad``, so that no parameter's ``.grad`` is touched.

    Args:
        layer: The layer.
        name: Its name, for messages.
        images: ``(B, ...)``.
        logits: Gives ``(B, K)`` logits of such images, by a forward pass through the layer.

    Raises:
        LayerError: If the layer does not run exactly once, or the logits do not depend on it.
    """
    runs: list[Any] = []

    def keep(module: nn.Module, args: object, output: object) -> Any:
        # A leaf of its own: what comes before the layer need not be differentiated.
        kept = output.detach().clone().requires_grad_() if isinstance(output, Tensor) else output
        runs.append(kept)
        # A layer that works in place must not change the leaf.
        return kept.clone() if isinstance(kept, Tensor) else kept

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            totals = [column.sum() for column in logits(images).unbind(1)]
    finally:
        handle.remove()
    if len(runs) != 1 or not isinstance(runs[0], Tensor):
        raise LayerError(f"layer '{name}' ran {len(runs)} times in a forward pass, expected one tensor from one run")
    maps = runs[0]
    slopes = []
    for k, total in enumerate(totals):
        # Of a frozen network that does not use the layer, the logits have no gradient at all.
        slope = None
        if total.requires_grad:
            (slope,) = torch.autograd.grad(total, maps, retain_graph=k + 1 < len(totals), allow_unused=True)
        if slope is None:
            raise LayerError(f"the network's output {k} does not depend on layer '{name}'")
        slopes.append(slope.float())
    return Gradients(maps.detach().float(), torch.stack(slopes, 1))
