"""How much the filters of a group fire together: the compositional loss, with exact correlations."""

import torch
from torch import Tensor

from lightning_interp.methods.filters.maths.filter_templates import check_maps, in_float32, least_scale


def group_correlation(x: Tensor, groups: Tensor) -> Tensor:
    """``-sum_k S_within(k) / S_all(k)`` over groups of filters, S the correlation of two filters' maps plus 1.

    The filter loss of compositional interpretable CNNs (Shen et al., IJCAI 2021): S_within sums over pairs within
    group k, S_all over pairs of which the first is in it. The authors' code centres the maps by a scrambled running
    mean; the correlation here is Pearson's, over the batch and positions. How filters come to be in groups is the
    caller's matter: the authors cluster the correlations every other epoch. A filter that fades, with a norm below a
    hundredth of the filters' mean, is divided by that instead, so that its gradient stays bounded; its correlations are
    then too small.

    Args:
        x: ``(B, F, H, W)`` float.
        groups: ``(F,)`` int64 from 0, the group of each filter.

    Returns:
        Scalar in float32 at least, in [-K, 0) for K groups that have filters. A filter without any variance is
        correlated with none, itself included.

    Raises:
        ValueError: If the maps are 1 x 1 or no maps, or the groups do not fit them.
    """
    check_maps(x)
    if groups.shape != x.shape[1:2] or groups.dtype != torch.int64:
        raise ValueError(f"groups must be (F,) int64 for maps of shape {tuple(x.shape)}, got {tuple(groups.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        maps = in_float32(x).transpose(0, 1).flatten(1)
        centred = maps - maps.mean(1, keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        unit = centred / norm.maximum(least_scale(norm))
        similarity = unit @ unit.T + 1
        # A row for each filter, to weigh it by the whole of its own group.
        same = (groups[:, None] == groups).to(similarity.dtype)
        within, whole = (similarity * same).sum(1), similarity.sum(1)
        loss: Tensor = -(within / (same @ whole)).sum()
        return loss
