"""A small network that draws images from the maps of a layer."""

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from lightning_interp.errors import DatasetError

# Of the negative side of the rectifiers, as published.
_SLOPE = 0.2
_NARROWEST = 16


class UpConvolution(nn.Module):
    """Draws images from the maps of one layer, after Dosovitskiy and Brox (CVPR 2016).

    The network of "Inverting visual representations with convolutional networks" for convolutional layers, made small:
    two convolutions, up-convolutions that each double the size and halve the channels, and a last convolution. What it
    draws is added to the mean image, which an untrained one draws of any map. Trained by the squared error of the
    pixels it gives the mean of the images that have such maps: blur is what the map leaves open.
    ``recipes/graph_decoder`` trains one.

    Args:
        scale: ``(C,)``, what each filter's responses are divided by; their root mean square, say.
        mean_image: ``(3, H, W)``, in [0, 1].
        doublings: How often the size of the map is doubled; what is then not the image's size is interpolated to it.
        width: Channels of the first two convolutions.

    Example:
        >>> import torch
        >>> decoder = UpConvolution(torch.ones(8), torch.full((3, 30, 40), 0.5), doublings=2)
        >>> decoder(torch.zeros(5, 8, 7, 10)).shape
        torch.Size([5, 3, 30, 40])
    """

    scale: Tensor
    mean_image: Tensor

    def __init__(self, scale: Tensor, mean_image: Tensor, doublings: int, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float().clone())
        self.register_buffer("mean_image", mean_image.detach().float().clone())
        widths = [max(width >> i, min(width, _NARROWEST)) for i in range(doublings + 1)]
        self.inputs = nn.Sequential(
            *(nn.Conv2d(len(scale), width, 3, padding=1), nn.LeakyReLU(_SLOPE)),
            *(nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(_SLOPE)),
        )
        # A kernel of twice the stride covers every pixel equally often: no chequerboard.
        self.doublings = nn.ModuleList(nn.ConvTranspose2d(*pair, 4, stride=2, padding=1) for pair in pairwise(widths))
        self.output = nn.Conv2d(widths[-1], 3, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    @classmethod
    def for_maps(cls, maps: Tensor, images: Tensor, width: int = 64) -> "UpConvolution":
        """An untrained one for maps like these.

        Args:
            maps: ``(B, C, h, w)`` of a layer; a filter that is silent in all of them stays unscaled.
            images: ``(B, 3, H, W)`` in [0, 1], the images that gave them.
            width: See above.

        Raises:
            DatasetError: If the maps are larger than the images.
        """
        times = max(image / side for image, side in zip(images.shape[2:], maps.shape[2:], strict=True))
        if times < 1:
            raise DatasetError(f"maps of {_size(maps)} are larger than their images of {_size(images)}")
        power = maps.square().mean((0, 2, 3)).sqrt()
        return cls(power.where(power > 0, 1.0), images.mean(0), math.ceil(math.log2(times)), width)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "UpConvolution":
        """The decoder that has this ``state_dict``, whose shapes say how it was built; in eval mode.

        Raises:
            DatasetError: If this is not the state of an up-convolution.
        """
        try:
            doublings = sum(name.startswith("doublings.") and name.endswith(".weight") for name in state)
            width = len(state["inputs.0.weight"])
            decoder = cls(state["scale"], state["mean_image"], doublings, width)
            decoder.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError) as error:
            raise DatasetError(f"these are not the weights of an up-convolution: {error}") from error
        return decoder.eval()

    def forward(self, maps: Tensor) -> Tensor:
        """Draw images.

        Args:
            maps: ``(B, C, h, w)`` float, as the layer gives them.

        Returns:
            ``(B, 3, H, W)`` float, about [0, 1].

        Raises:
            DatasetError: If there are not as many filters as it was built for.
        """
        if maps.shape[1] != len(self.scale):
            raise DatasetError(
                f"this decoder is for {len(self.scale)} filters, not {maps.shape[1]}; train one for them"
            )
        drawn = self.inputs(maps / self.scale[:, None, None])
        for doubling in self.doublings:
            drawn = nn.functional.leaky_relu(doubling(drawn), _SLOPE)
        drawn = self.output(drawn)
        size = self.mean_image.shape[1:]
        if drawn.shape[2:] != size:
            drawn = nn.functional.interpolate(drawn, tuple(size), mode="bilinear", align_corners=False)
        images: Tensor = self.mean_image + drawn
        return images


def _size(images: Tensor) -> str:
    return f"{images.shape[2]} x {images.shape[3]} pixels"
