"""The mutual information of a filter's maps and the templates, Eq. (1) of interpretable CNNs, without labels."""

import math

import torch
from torch import Tensor

from lightning_interp.methods.filters.maths.filter_templates import check_maps, in_float32, templates_at


def mutual_information(x: Tensor, tau: float = 50.0, relative: bool = True) -> Tensor:
    """Minus the mutual information of maps X and templates T in nats, summed over filters.

    Eq. (1) of Zhang, Wu, Zhu (CVPR 2018), as read in a transcription of the paper, for the maps of one batch:
    ``Loss_f = -MI(X; T) = -sum_T p(T) sum_x p(x|T) log(p(x|T) / p(x))`` with ``p(x|T) = exp(sum_ij x_ij t_ij) / Z_T``.
    There is a template of peak tau for each of the n = H W positions and a flat one of -tau, all of prior 1 / (n + 1).
    The equation knows no label: a filter loses by firing at many places, not by firing on many classes.

    Z is held constant, as the paper has it; the gradient is then *minus* the Eq. (4) that it prints. It is bounded:
    MI <= min(log B, log(n + 1)), so the value depends on the batch size, and in data-parallel training each process
    has its own. The scaling is this project's own: in the paper's units (tau 0.5, not relative) the loss vanishes for
    activations of order 1. The largest activation keeps its gradient, or activations would grow for the loss' sake.

    Args:
        x: ``(B, F, H, W)`` float of at least 0: after a ReLU.
        tau: Times 1 / n, the tau of the templates; the paper has 0.5.
        relative: Divide activations by the largest of the batch.

    Returns:
        Scalar in float32 at least, of at most 0 up to rounding; NaN where activations are NaN or infinite.

    Raises:
        ValueError: If the maps are 1 x 1 or no maps, or tau is not above 0.
    """
    check_maps(x)
    if not tau > 0:
        raise ValueError(f"tau must be above 0, got {tau}")
    with torch.autocast(x.device.type, enabled=False):
        x = in_float32(x)
        if relative:
            largest = x.amax()
            x = x / largest.where(largest != 0, 1.0)
        height, width = x.shape[2:]
        templates = tau / (height * width) * _all_templates(height, width, x)
        energy = x.flatten(2) @ templates.T
        # Of x given T: over the batch.
        log_likelihood = energy - energy.detach().logsumexp(0)
        log_evidence = log_likelihood.logsumexp(2, keepdim=True) - math.log(len(templates))
        return -(log_likelihood.exp() * (log_likelihood - log_evidence)).sum() / len(templates)


def _all_templates(height: int, width: int, like: Tensor) -> Tensor:
    """``(H W + 1, H W)``: the paper's template of each position, row by row, then the flat one of -1."""
    at = torch.arange(height * width, device=like.device)
    row, column = (at // width).to(like.dtype), (at % width).to(like.dtype)
    placed = templates_at(row, column, (height, width), "paper").flatten(1)
    return torch.cat([placed, -torch.ones_like(placed[:1])])
