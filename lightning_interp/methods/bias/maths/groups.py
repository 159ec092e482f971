"""Checks that need labels only: accuracy and scores by group of label and context, from counts and moments.

A *group* is a pair (y, c) of a label and a context label, as in Sagawa et al. (2020, "Distributionally robust neural
networks for group shifts"). Everything starts from :func:`contingency_table` or :func:`group_moments`, whose sums over
batches and processes are those of the whole; the rest is arithmetic on these sums. A score that the data cannot
give is NaN.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.moments import Z95, Estimate, mean, moments, share, variance


def predicted_classes(logits: Tensor) -> Tensor:
    """Class that a head predicts.

    Args:
        logits: ``(B,)`` log-odds of class 1, or ``(B, K)`` logits of K classes.

    Returns:
        ``(B,)`` int64: whether the log-odds are above 0, or the first of the largest logits; -1 where a logit is
        NaN or infinite.
    """
    if logits.ndim == 1:
        return torch.where(logits.isfinite(), (logits > 0).long(), -1)
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1)


def contingency_table(columns: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Count images by their labels, predictions and other class numbers.

    Args:
        columns: Class numbers, each ``(B,)`` integer or bool; an image with a negative one is left out, so -1 stands
            for an unknown label and for the prediction of a logit that is not finite.
        sizes: Number of classes of each column.

    Returns:
        ``(*sizes,)`` int64. Every cell is there, whatever a batch lacks.

    Raises:
        ValueError: If a class number is not below its size: it would count in another cell.

    Example:
        >>> label, context = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 1, -1])
        >>> contingency_table([label, context], (2, 2)).tolist()
        [[1, 0], [0, 2]]
    """
    cell = _cells(columns, sizes)
    return torch.bincount(cell[cell >= 0], minlength=math.prod(sizes)).view(*sizes)


def group_moments(scores: Tensor, label: Tensor, context: Tensor, sizes: Sequence[int]) -> Tensor:
    """Moments of the score by group.

    Args:
        scores: ``(B,)`` logits; NaN and infinite ones are left out.
        label: ``(B,)`` int64, y; negative where unknown, as ``context``.
        context: ``(B,)`` int64, c.
        sizes: ``(Y, C)``.

    Returns:
        ``(Y, C, 3)`` float64: n, sum, sum of squares (:func:`~lightning_interp.functional.moments.moments`).

    Raises:
        ValueError: If a class number is not below its size.
    """
    number = math.prod(sizes)
    member = _cells([label, context], sizes)[:, None] == torch.arange(number, device=scores.device)
    # Not a weighted bincount: on a GPU its sums differ from run to run, and deterministic training refuses it.
    return moments(scores[:, None].expand(-1, number), member).view(*sizes, 3)


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy by group (check C1); see :func:`group_accuracy`.

    Args:
        by_group: ``(Y, C)`` float64; NaN for groups without images.
        worst: Smallest of them.
        worst_group: Its ``(y, c)``, the first of equals; None without images.
        average: Share of all images that are right.
        adjusted: Groups weighted by their share of the training set; NaN without such shares, and if a group that
            training had is missing here.
        gap: ``average - worst``.
    """

    by_group: Tensor
    worst: float
    worst_group: tuple[int, int] | None
    average: float
    adjusted: float
    gap: float


def group_accuracy(counts: Tensor, training: Tensor | None = None) -> GroupAccuracy:
    """Worst-group accuracy and its averages (check C1; Sagawa et al. 2020, WILDS).

    Args:
        counts: ``(Y, C, Y)`` int64, images by label, context and prediction.
        training: ``(Y, C)``, images or shares of each group in the training set, for the adjusted average; it and
            the plain average are different numbers, and both are in use under the name "average".
    """
    counts = counts.cpu()
    number = counts.sum(dim=2).double()
    right = counts.diagonal(dim1=0, dim2=2).T.double()
    accuracy = right / number
    known = ~accuracy.isnan()
    if not known.any():
        return GroupAccuracy(accuracy, math.nan, None, math.nan, math.nan, math.nan)
    place = int(accuracy.nan_to_num(nan=2.0).argmin())
    worst, average = float(accuracy.view(-1)[place]), float(right.sum() / number.sum())
    adjusted = math.nan
    if training is not None:
        weight = training.cpu().double()
        adjusted = float(torch.where(weight > 0, weight * accuracy, 0.0).sum() / weight.sum())
    group = divmod(place, counts.shape[1])
    return GroupAccuracy(accuracy, worst, group, average, adjusted, average - worst)


def equalised_odds_gap(counts: Tensor) -> float:
    """Largest change of the accuracy within a label when the context changes (check C2; Hardt et al. 2016).

    For two classes and two contexts this is max over y of ``|P(yhat=1 | y, c=1) - P(yhat=1 | y, c=0)|``; for more, the
    largest difference of P(yhat=y | y, c) between contexts.

    Args:
        counts: ``(Y, C, Y)`` int64, images by label, context and prediction.

    Returns:
        In [0, 1]; NaN unless some label occurs in two contexts.
    """
    accuracy = group_accuracy(counts).by_group
    several = accuracy[(~accuracy.isnan()).sum(dim=1) > 1]
    if not len(several):
        return math.nan
    return float((several.nan_to_num(nan=-1.0).amax(dim=1) - several.nan_to_num(nan=2.0).amin(dim=1)).max())


def score_gap(sums: Tensor) -> float:
    """Mean over labels of E[s | y, c=1] - E[s | y, c=0], in standard deviations of the score (check C2, scores).

    This project's own definition. Signed; it grows long before accuracies do.

    Args:
        sums: ``(Y, 2, 3)``, of :func:`group_moments`.

    Returns:
        NaN unless some label occurs in both contexts, or if all scores are equal.

    Raises:
        ValueError: If the context is not binary.
    """
    _check_binary(sums.shape[1:2], "context")
    means = mean(sums)
    return float((means[:, 1] - means[:, 0]).nanmean() / variance(sums.sum(dim=(0, 1))).sqrt())


def conditional_reliance(sums: Tensor) -> Estimate:
    """|dE[s|c]| / (|dE[s|c]| + |dE[s|y]|), d being the difference between class 1 and class 0.

    This project's own definition: an estimate of the context reliance without any intervention, **right only where
    y and c are independent**. Where they go together the two differences mix, and it is near 1/2 for every network.

    Args:
        sums: ``(2, 2, 3)`` by label and context, of :func:`group_moments`.

    Returns:
        With the interval of the delta method, numbers of images by group taken as given; NaN if a class is missing.

    Raises:
        ValueError: If label or context is not binary.
    """
    _check_binary(sums.shape[:2], "label and context")
    sums = sums.cpu()
    number = sums[..., 0]
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    # Both differences are weighted sums over groups of the groups' means; a group without images weighs nothing.
    weights = torch.stack([sign * number / number.sum(dim=0), sign[:, None] * number / number.sum(dim=1)[:, None]])
    occurs = number > 0
    by_context, by_label = (weights * torch.where(occurs, mean(sums), 0.0)).sum(dim=(1, 2)).tolist()
    noise = torch.where(occurs, variance(sums) / number, 0.0).flatten()
    flat = weights.flatten(1)
    return share(by_context, by_label, flat @ (noise[:, None] * flat.T))


def association(table: Tensor) -> float:
    """How strongly two labels go together: rho of a split.

    Args:
        table: ``(Y, C)`` int64, images by two labels.

    Returns:
        For two binary labels the phi coefficient, signed; it equals rho where both are 1 for half of the images and
        equal with probability (1 + rho) / 2. For more classes Cramer's V, in [0, 1], over the classes that occur. NaN
        if fewer than two classes of either occur.
    """
    table = table.cpu().double()
    rows, columns = table.sum(dim=1), table.sum(dim=0)
    smaller = min(int((rows > 0).sum()), int((columns > 0).sum()))
    if smaller < 2:
        return math.nan
    if table.shape == (2, 2):
        agreement = table[1, 1] * table[0, 0] - table[1, 0] * table[0, 1]
        return float(agreement / (rows.prod() * columns.prod()).sqrt())
    expected = torch.outer(rows, columns) / table.sum()
    squares = torch.where(expected > 0, (table - expected).square() / expected, 0.0).sum()
    return float((squares / table.sum() / (smaller - 1)).sqrt())


def bias_amplification(counts: Tensor, training: Tensor) -> float:
    """Directional bias amplification, given -> predicted (check C9).

    BiasAmp of Wang and Russakovsky ("Directional bias amplification", ICML 2021), as their published code computes
    it: the mean over pairs of ``sign(P(g,k) - P(g)P(k)) * (P(khat|g) - P(k|g))``, the sign from the training set.
    Here the pairs are all classes of two class-numbered variables; the code has a column for each label instead.

    Args:
        counts: ``(G, K, K)`` int64, images by given class, true class and predicted class. A -> T: context, label and
            predicted label. T -> A: label, context and predicted context.
        training: ``(G, K)`` int64, images of the training set by given and true class.

    Returns:
        Positive if predictions follow the given class more than the truth does. NaN where no pair has a direction
        (training set without association; the published code gives 0), or without images.
    """
    counts, training = counts.cpu(), training.cpu()
    # In integers, for a balanced training set must give exactly 0.
    joint, margins = training * training.sum(), torch.outer(training.sum(dim=1), training.sum(dim=0))
    direction = torch.sign(joint - margins)
    if not direction.any():
        return math.nan
    number = counts.sum(dim=(1, 2)).double()[:, None]
    change = (counts.sum(dim=1) - counts.sum(dim=2)) / number
    return float((direction * change).nanmean())


class BalancedAccuracy(NamedTuple):
    """Mean recall of the classes that occur; see :func:`balanced_accuracy`.

    Attributes:
        value: The mean recall; NaN if fewer than two classes occur.
        low: Lower end of its 95 % interval.
        high: Upper end.
        chance: What any constant prediction scores: one over the number of classes that occur.
    """

    value: float
    low: float
    high: float
    chance: float

    @property
    def above_chance(self) -> bool:
        """Whether even the lower end is above chance; False if undefined."""
        return self.low > self.chance


def balanced_accuracy(table: Tensor) -> BalancedAccuracy:
    """Mean recall with an interval that holds for few images too.

    The interval is Agresti and Caffo's (2000): two more images in each class, right as often as chance is, so that
    two right answers out of two are no proof. Their text treats two classes; shrinking to chance for more is ours.

    Args:
        table: ``(Y, Y)`` int64, images by label and prediction.
    """
    table = table.cpu()
    number, right = table.sum(dim=1).double(), table.diagonal().double()
    number, right = number[number > 0], right[number > 0]
    classes = len(number)
    if classes < 2:
        return BalancedAccuracy(math.nan, math.nan, math.nan, math.nan)
    chance = 1 / classes
    recall = (right + 2 * chance) / (number + 2)
    error = (recall * (1 - recall) / (number + 2)).sum().sqrt() / classes
    low, high = (float(recall.mean() + side * Z95 * error) for side in (-1, 1))
    return BalancedAccuracy(float((right / number).mean()), low, high, chance)


class Learnt(NamedTuple):
    """Whether a network has learnt anything that a diagnosis could be of.

    Attributes:
        accuracy: Balanced accuracy on the target.
        anything: Whether its predictions follow the target's labels better than chance, or those of a context in
            either direction: on a split where the two are independent, a network that knows nothing but the context
            is at chance on the target, and has learnt all the same. None if nobody asks: scores then come with no
            regard to signal.
    """

    accuracy: BalancedAccuracy
    anything: bool | None

    @property
    def nothing(self) -> bool:
        """Whether it is known to have learnt nothing, so that there is nothing to tell."""
        return self.anything is False


def what_is_learnt(target: Tensor, contexts: Iterable[Tensor]) -> Learnt:
    """What predictions follow, see :class:`Learnt`.

    Args:
        target: ``(Y, Y)`` int64, images by label and prediction.
        contexts: Each ``(2, 2)`` int64, images by context label and prediction.
    """
    accuracy = balanced_accuracy(target)
    ways = [balanced_accuracy(way) for table in contexts for way in (table, table.flip(1))]
    return Learnt(accuracy, accuracy.above_chance or any(way.above_chance for way in ways))


def confident_table(
    log_odds: Tensor, label: Tensor, predicted: Tensor, part: Tensor, sizes: Sequence[int], tau: float
) -> Tensor:
    """Count confident predictions, right and wrong, by what was predicted and by a part of the data.

    Args:
        log_odds: ``(B,)``, log-odds of the predicted class (binary: the logit's absolute value). Not a probability:
            that rounds to 1 long before the logit is large. NaN and infinite ones are left out.
        label: ``(B,)`` int64, y; negative where unknown, as the next two.
        predicted: ``(B,)`` int64.
        part: ``(B,)`` int64, a partition of the data: context, cluster, or zeros.
        sizes: ``(K, Q)``, number of classes and of parts.
        tau: Confident means a probability above this.

    Returns:
        ``(K, Q, 2)`` int64: right, wrong.

    Raises:
        ValueError: If ``tau`` is not in (0, 1), or a class number is not below its size.
    """
    if not 0 < tau < 1:
        raise ValueError(f"tau must be in (0, 1), got {tau}")
    confident = log_odds.isfinite() & (log_odds.double() > math.log(tau / (1 - tau))) & (label >= 0)
    return contingency_table([torch.where(confident, predicted, -1), part, predicted != label], (*sizes, 2))


def confident_errors(table: Tensor) -> tuple[float, Tensor]:
    """Unknown unknowns (check C10; after Lakkaraju et al., AAAI 2017): errors among the confident predictions.

    The share of errors, overall and by cell, is this project's reading; the paper searches for such cells with an
    oracle.

    Args:
        table: ``(K, Q, 2)`` int64, of :func:`confident_table`.

    Returns:
        The share overall, and ``(K, Q)`` float64 by predicted class and part; NaN without confident predictions.
    """
    table = table.cpu().double()
    return float(table[..., 1].sum() / table.sum()), table[..., 1] / table.sum(dim=-1)


def _cells(columns: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """``(B,)`` int64, number of the cell of each image in a table of these sizes; -1 where a column is negative."""
    cell = torch.zeros_like(columns[0], dtype=torch.int64)
    known = torch.ones_like(columns[0], dtype=torch.bool)
    for values, size in zip(columns, sizes, strict=True):
        if bool((values >= size).any()):
            raise ValueError(f"class number {int(values.max())} where there are {size} classes, counted from 0")
        known &= values >= 0
        cell = cell * size + values
    return torch.where(known, cell, -1)


def _check_binary(sizes: Sequence[int], what: str) -> None:
    if any(size != 2 for size in sizes):
        raise ValueError(f"{what} must be binary, got {' x '.join(map(str, sizes))} classes")
