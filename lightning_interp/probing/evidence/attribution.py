"""Attribution of a score to the positions of a layer's maps, by captum."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_interp._extras import require
from lightning_interp.functional.fills import mean_colour
from lightning_interp.probing.evidence.rules import relevance
from lightning_interp.probing.evidence.tail import Tail

Attribution = Literal["gradient_x_activation", "grad_cam", "integrated_gradients", "lrp"]
ATTRIBUTIONS: tuple[Attribution, ...] = get_args(Attribution)

STEPS = 16
"""Steps of integrated gradients, Gauss-Legendre."""


def captum_heat(method: Attribution, tail: Tail, module: nn.Module) -> Tensor:
    """How much each position of a layer's maps adds to the score.

    - ``"grad_cam"`` (Selvaraju et al., ICCV 2017) before its ReLU: activations weighted, channel by channel, by the
      mean of the gradient over positions. What it finds, it finds by channel: a channel active everywhere is heat
      everywhere.
    - ``"integrated_gradients"`` (Sundararajan et al., ICML 2017) in :data:`STEPS` steps along a straight line between
      activations, from those of a uniform image of the image's own mean colour. Black would be as arbitrary, and
      different after normalisation. Summed up it is ``s(image) - s(uniform image)``, to some
      percent (of a network with max pooling, 3 to 5 %, half as much with twice the steps).
    - ``"lrp"``: see :func:`~lightning_interp.probing.evidence.rules.relevance`.

    Call it inside :func:`~lightning_interp.probing.session.probing`.

    Args:
        method: Any but ``"gradient_x_activation"``, which needs no captum.
        tail: What follows the layer, with the images.
        module: The network.

    Returns:
        ``(B, h, w)`` float32, signed.

    Raises:
        LayerError: If the method cannot follow the network.
        MissingExtraError: If captum is not installed.
    """
    maps = tail.maps(tail.images).requires_grad_()
    heats: dict[str, Callable[[], Tensor]] = {
        "grad_cam": lambda: _grad_cam(tail, maps),
        "integrated_gradients": lambda: _integrated_gradients(tail, maps),
        "lrp": lambda: relevance(tail, maps, module),
    }
    return heats[method]().detach().float().sum(1)


def _grad_cam(tail: Tail, maps: Tensor) -> Tensor:
    found: Tensor = require("captum.attr").LayerGradCam(tail, tail.probe).attribute(maps)
    return found


def _integrated_gradients(tail: Tail, maps: Tensor) -> Tensor:
    everywhere = torch.ones_like(tail.images[:, 0], dtype=torch.bool)
    uniform = mean_colour(tail.images, everywhere).expand_as(tail.images)
    found: Tensor = (
        require("captum.attr")
        .LayerIntegratedGradients(tail, tail.probe)
        .attribute(
            maps,
            baselines=tail.maps(uniform),
            n_steps=STEPS,
            # One step a forward pass, for the tail's images are these.
            internal_batch_size=len(maps),
        )
    )
    return found
