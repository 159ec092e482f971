"""The forward mask of interpretable CNNs, and how to put it into a network."""

from torch import Tensor, nn

from lightning_interp.errors import LayerError
from lightning_interp.methods.filters.maths.filter_templates import (
    Centre,
    Template,
    check_maps,
    filter_templates,
    in_float32,
)


class InterpretableMask(nn.Module):
    """``max(x T, 0)``: of each map only what is around its centre, weighed by the template T there.

    Of Zhang, Wu, Zhu (CVPR 2018), the same in training and evaluation. T is a constant to the gradient and has a peak
    of 1, as in the released code; the paper prints a factor of 0.5 / (H W), which would shrink the features to nothing.
    The mask costs accuracy; put it into a trained network, not into one that starts from scratch.

    Args:
        template: See :func:`~lightning_interp.methods.filters.maths.filter_templates.templates_at`.
        centre: See :func:`~lightning_interp.methods.filters.maths.filter_templates.map_centres`.
    """

    def __init__(self, template: Template = "code", centre: Centre = "argmax") -> None:
        super().__init__()
        self.template: Template = template
        self.centre: Centre = centre

    def forward(self, x: Tensor) -> Tensor:
        """The masked maps, of x's shape and dtype.

        Args:
            x: ``(B, F, H, W)`` float of at least 0: after a ReLU.

        Raises:
            ValueError: If the maps are 1 x 1 or no maps, or template or centre is unknown.
        """
        check_maps(x)
        # In float32, for half precision moves the centre; products with x keep x's precision.
        return x * filter_templates(in_float32(x), self.template, self.centre).clamp(min=0).to(x.dtype)

    def extra_repr(self) -> str:
        """The options, for ``print(network)``."""
        return f"template={self.template!r}, centre={self.centre!r}"


def insert_mask(
    module: nn.Module, layer: str, template: Template = "code", centre: Centre = "argmax"
) -> InterpretableMask:
    """Put a mask after a layer of a network, in place.

    The layer becomes ``nn.Sequential(layer, mask)``: its parameters' names get a ``.0``, so load weights of the plain
    network first. Its output must be the only path on (a ReLU after the last convolution, or a whole residual stage):
    a skip connection around it escapes the mask.

    Args:
        module: The network, changed in place.
        layer: Name of a submodule whose output is ``(B, F, H, W)`` of at least 0.
        template: See :class:`InterpretableMask`.
        centre: See :class:`InterpretableMask`.

    Returns:
        The mask.

    Raises:
        LayerError: If there is no such layer, or it has a mask already.
    """
    name, _, child = layer.rpartition(".")
    try:
        parent, old = module.get_submodule(name), module.get_submodule(layer)
    except AttributeError as error:
        raise LayerError(f"the network has no layer '{layer}': {error}") from None
    if old is module:
        raise LayerError("a mask goes after a layer by its name, not after the whole network")
    if isinstance(old, nn.Sequential) and len(old) and isinstance(old[-1], InterpretableMask):
        raise LayerError(f"layer '{layer}' has a mask already")
    mask = InterpretableMask(template, centre)
    setattr(parent, child, nn.Sequential(old, mask).train(old.training))
    return mask
