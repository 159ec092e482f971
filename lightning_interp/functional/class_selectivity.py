"""How much filters tell about the class of an image, wherever they look."""

import math

import torch
from torch import Tensor


def class_means(values: Tensor, category: Tensor, num_categories: int) -> Tensor:
    """Mean of each filter's values over the images of each class.

    Args:
        values: ``(N, F)``; what is not finite is left out.
        category: ``(N,)`` int64; images of a negative one are left out.
        num_categories: C.

    Returns:
        ``(F, C)`` float64; NaN for a class without values.
    """
    counted = values.isfinite().double()
    member = (category[:, None] == torch.arange(num_categories, device=category.device)).double()
    total = torch.where(values.isfinite(), values.double(), 0.0).T @ member
    return total / (counted.T @ member)


def largest_column(table: Tensor) -> Tensor:
    """Column of the largest value of each row.

    Of class means of activations it is the category of a filter of Zhang, Wu and Zhu (CVPR 2018, section 3), of those
    of peaks the category of their published evaluation code.

    Args:
        table: ``(F, C)``.

    Returns:
        ``(F,)`` int64, the first of equals; NaN is left out, -1 if there is nothing else.
    """
    known = table.nan_to_num(nan=-math.inf, neginf=-math.inf)
    largest = known.amax(1)
    place = torch.arange(table.shape[1], device=table.device)
    first = torch.where(known == largest[:, None], place, len(place)).amin(1)
    return torch.where(largest > -math.inf, first, -1)


def class_selectivity(means: Tensor) -> Tensor:
    """Share of a filter's mean activation that falls on its category, all classes weighing the same.

    Args:
        means: ``(F, C)``, class means of activations that are not negative.

    Returns:
        ``(F,)`` float64 in [1 / C, 1]; 1 / C for a filter that knows nothing of the class, NaN for a dead one.

    Example:
        >>> class_selectivity(torch.tensor([[3.0, 1.0], [2.0, 2.0]])).tolist()
        [0.75, 0.5]
    """
    known = means.nan_to_num(nan=0.0).double()
    return known.amax(1) / known.sum(1)


def mutual_information_score(values: Tensor, category: Tensor, num_categories: int, bins: int = 10) -> Tensor:
    """Most that a filter's activation tells about whether an image is of some class: max_c MI(value, [y = c]).

    Its mean over filters is the mutual information score of the class-specific gate (Liang et al., ECCV 2020). Their
    code estimates MI from nearest neighbours; this is the plug-in estimate over ``bins`` equally filled bins (equal
    values share a bin), so figures are not comparable with theirs. It exceeds the truth by about (bins - 1) / 2N.

    Args:
        values: ``(N, F)``, one number an image, their mean activation say.
        category: ``(N,)`` int64, at least 0.
        num_categories: C.
        bins: Number of bins.

    Returns:
        ``(F,)`` float64, in nats, at most log 2.
    """
    number = len(values)
    ordered = values.sort(dim=0).values
    # Rank of the first equal value: ties, such as many zeros, stay together.
    rank = torch.searchsorted(ordered.T.contiguous(), values.T.contiguous())
    # One filter a row; the table of bins by classes is counted in a single scatter.
    place = (rank * bins // max(number, 1)) * num_categories + category
    counts = torch.zeros(values.shape[1], bins * num_categories, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64))
    inside = counts.view(-1, bins, num_categories) / number
    joint = torch.stack([inside, inside.sum(2, keepdim=True) - inside])
    expected = joint.sum(0) * joint.sum(2, keepdim=True)
    # Above rounding of the difference: an empty cell must stay empty.
    gain = torch.where(joint > 0.5 / number, joint * (joint / expected).log(), 0.0).sum((0, 2))
    return gain.amax(1)
