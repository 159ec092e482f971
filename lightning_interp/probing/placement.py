"""Where the values of a layer's maps lie on the image."""

from typing import Literal

from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.receptive import receptive_field

Placement = Literal["receptive_field", "cell"]


def image_grid(
    module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int], placement: Placement
) -> Grid:
    """Place a layer's values at the centres of their receptive fields, or of equal cells of the image.

    Args:
        module: The network, in eval mode.
        layer: The layer in it.
        info: Its name and shape.
        shape: ``(C, H, W)`` of the images.
        placement: Which of the two; cells for networks of which each value sees the whole image.

    Raises:
        LayerError: If the maps have one value only, or the layer has no receptive fields.
    """
    if info.height * info.width == 1:
        raise LayerError(f"layer '{info.name}' gives maps of one value, which is at no place; choose an earlier layer")
    channels, *size = shape
    axes, field = [], None
    for axis, (length, pixels) in enumerate(zip((info.height, info.width), size, strict=True)):
        own = Axis.cells(length, pixels)
        if placement == "receptive_field":
            field = receptive_field(module, layer, info.name, (size[0], size[1]), channels, axis, guess=field)
            own = Axis(length, pixels, field.centre, field.stride)
        axes.append(own)
    return Grid(*axes)
