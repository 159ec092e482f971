"""Templates of interpretable filters: one peak, and a slope around it that falls below zero.

After Zhang, Wu, Zhu, "Interpretable Convolutional Neural Networks" (CVPR 2018), and the MATLAB code that its authors
released, which differs. A template here has a peak of 1; the paper's factor tau, which belongs to its likelihood, would
shrink what a forward mask lets through.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

_Named = Literal["paper", "code"]
Template = _Named | float
Centre = Literal["argmax", "centroid"]

_PAPER_BETA = 4.0
# What the released code starts from; it then moves the slope of every filter within [1.5, 3].
_CODE_W3 = 2.0
# Of the filters' mean. With a tenth of it, one step of SGD still makes a filter that fades half as large as the others.
_FADING = 1e-2


def check_maps(x: Tensor) -> None:
    """Refuse what is no batch of feature maps with room for a position.

    Args:
        x: ``(B, F, H, W)`` float, H W of at least 2.

    Raises:
        ValueError: If it is something else; the message names the shape.
    """
    if x.ndim != 4 or not x.numel() or not x.is_floating_point():
        raise ValueError(f"expected feature maps (B, F, H, W) of floats, got {tuple(x.shape)} of {x.dtype}")
    if x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"feature maps of shape {tuple(x.shape)} are 1 x 1: a filter has no position there")


def check_template(template: Template) -> None:
    """Refuse what is neither the name of a template nor a beta above 0.

    Raises:
        ValueError: If so; the message has the names.
    """
    known = template > 0 if isinstance(template, (int, float)) else template in get_args(_Named)
    if not known:
        raise ValueError(f"unknown template={template!r}; there are {', '.join(get_args(_Named))}, or beta above 0")


def check_centre(centre: Centre) -> None:
    """Refuse what is not the name of a centre.

    Raises:
        ValueError: If so; the message has the names.
    """
    if centre not in get_args(Centre):
        raise ValueError(f"unknown centre={centre!r}; there are {', '.join(get_args(Centre))}")


def least_scale(scale: Tensor) -> Tensor:
    """The least by which to divide a filter, so that the gradient of one that fades does not grow without bound.

    Args:
        scale: ``(F,)`` float of at least 0, the scale of each filter's activations: their standard deviation, say.

    Returns:
        Scalar without gradient, a hundredth of the filters' mean scale; 1 where that is 0.
    """
    least = _FADING * scale.detach().mean()
    return least.where(least != 0, 1.0)


def in_float32(x: Tensor) -> Tensor:
    """The same values in float32 at least: bfloat16 ties the maximum of a map, float16 overflows in sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def map_centres(x: Tensor, centre: Centre) -> tuple[Tensor, Tensor]:
    """Where each map has its centre.

    Args:
        x: ``(B, F, H, W)`` float of at least 0.
        centre: ``"argmax"`` (the paper): the first of the largest values, row by row. ``"centroid"`` (the code): the
            centre of mass, rounded half up on each axis; the first cell for a map of zeros.

    Returns:
        Row and column from 0, each ``(B, F)`` of x's dtype; whole numbers, NaN for the centroid of a map with NaN.

    Raises:
        ValueError: If ``centre`` is unknown.
    """
    check_centre(centre)
    height, width = x.shape[2:]
    if centre == "argmax":
        first = x.flatten(2).argmax(dim=2)
        return (first // width).to(x.dtype), (first % width).to(x.dtype)
    # The code's own guard against maps of zeros.
    mass = x.sum((2, 3)).clamp(min=1e-9)
    row = (x.sum(3) * torch.arange(height, device=x.device)).sum(2) / mass
    column = (x.sum(2) * torch.arange(width, device=x.device)).sum(2) / mass
    return (row + 0.5).floor(), (column + 0.5).floor()


def templates_at(row: Tensor, column: Tensor, size: tuple[int, int], template: Template) -> Tensor:
    """``max(1 - slope . distance, -1)``, the distance being the sum over the two axes (L1).

    ``"paper"``: slope beta / n with beta = 4 along an axis of n cells, printed for square maps. ``"code"``: 2 w3 / (n -
    1) with w3 = 2, where the released code starts. It lays the n cells over [-1, 1], and takes the table of the rows
    for the columns too; here each axis has its own, for either template. A number is beta itself: either of the named
    templates is above 0 in a quarter of the map's length around its peak, which suits parts that fill as much of the
    image (heads of cropped animals); parts that are smaller want a larger beta.

    Args:
        row: ``(...)`` float, from 0.
        column: ``(...)`` float, from 0.
        size: ``(H, W)`` of the maps.
        template: Which slope, or beta, above 0.

    Returns:
        ``(..., H, W)`` of the dtype of ``row``, in [-1, 1].

    Raises:
        ValueError: If ``template`` is unknown.
    """
    check_template(template)

    def fall(at: Tensor, n: int) -> Tensor:
        beta = _PAPER_BETA if template == "paper" else template
        slope = 2 * _CODE_W3 / max(n - 1, 1) if beta == "code" else float(beta) / n
        return slope * (torch.arange(n, dtype=at.dtype, device=at.device) - at[..., None]).abs()

    height, width = size
    return (1 - fall(row, height)[..., :, None] - fall(column, width)[..., None, :]).clamp(min=-1)


def filter_templates(x: Tensor, template: Template = "code", centre: Centre = "argmax") -> Tensor:
    """The template of each map, at the map's own centre; no gradient flows through it.

    Args:
        x: ``(B, F, H, W)`` float of at least 0.
        template: See :func:`templates_at`.
        centre: See :func:`map_centres`.

    Returns:
        ``(B, F, H, W)`` of x's dtype, in [-1, 1].
    """
    height, width = x.shape[2:]
    row, column = map_centres(x.detach(), centre)
    return templates_at(row, column, (height, width), template)
