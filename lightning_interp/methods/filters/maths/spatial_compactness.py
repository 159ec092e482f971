"""How far a filter's activation is spread over the map: a label-free loss."""

import math

import torch
from torch import Tensor

from lightning_interp.methods.filters.maths.filter_templates import check_maps, in_float32, least_scale


def spatial_compactness(x: Tensor, gain: float = 3.0, offset: float = -6.0) -> Tensor:
    """Mean distance of a filter's soft receptive field to its own centre; mean over images, sum over filters.

    The spatial loss L_s of concept group learning (Varshneya et al., IJCAI 2021): ``psi = sigmoid(P1 a / std + P2)``,
    ``L_s = sum_j psi_j |j - c| / sum_j psi_j``, c the centre of mass of psi, std that of the filter over batch and
    positions. The authors' code has P1 = 1 and P2 = 0, for activations *before* the nonlinearity. After a ReLU these
    leave psi = 1/2 wherever nothing fires, so that c is near the middle of every map and a blob anywhere else is
    pushed towards it. The defaults are this project's own, for maps after a ReLU: psi is 0.0025 at 0, 1/2 at two
    standard deviations. So are the unit, and that the std is not raised by a constant, but to a hundredth of the
    filters' mean std where it is below: filters of any scale above that lose alike, and the gradient of one that fades
    does not grow without bound.

    Args:
        x: ``(B, F, H, W)`` float.
        gain: P1.
        offset: P2.

    Returns:
        Scalar in float32 at least; the distances are in diagonals sqrt(H^2 + W^2) of the map. A filter without any
        variance adds that of the even map, without gradient through its std.

    Raises:
        ValueError: If the maps are 1 x 1 or no maps.
    """
    check_maps(x)
    with torch.autocast(x.device.type, enabled=False):
        x = in_float32(x)
        height, width = x.shape[2:]
        variance = x.var((0, 2, 3), correction=0)[:, None, None]
        # The slope of a square root at 0 is infinite.
        std = variance.where(variance != 0, 1.0).sqrt().maximum(least_scale(variance.sqrt()))
        psi = (x * (gain / std) + offset).sigmoid()
        # Centres of whole rows and columns, and one division a map: a pass over the maps costs more than all of these.
        by_row, by_column = psi.sum(3), psi.sum(2)
        mass = by_row.sum(2, keepdim=True)
        down, right = (_offsets(margin, mass) for margin in (by_row, by_column))
        squared = down.square()[..., :, None] + right.square()[..., None, :]
        # Neither torch.hypot nor a bare square root has a slope (of 0) at the centre itself.
        distance = squared.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        return ((psi * distance).sum((2, 3)) / mass[..., 0]).sum() / (len(x) * math.hypot(height, width))


def _offsets(margin: Tensor, mass: Tensor) -> Tensor:
    """Cells along one axis from a map's centre of mass: ``(B, F, n)`` of the weights' sums over the other axis."""
    cells = torch.arange(margin.shape[2], dtype=margin.dtype, device=margin.device)
    # No matrix product: an accelerator may round the factors of one to ten bits.
    return cells - (margin * cells).sum(2, keepdim=True) / mass
