"""Which filter is to be of which class: from how strongly it fires on each, with as many filters for every class."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.functional.reduction import LOCAL, Reduction
from lightning_interp.methods.filters.maths.memberships import memberships


class FilterAssignment(nn.Module):
    """The class of each filter, balanced and slow to change.

    The code released with interpretable CNNs (Zhang, Wu, Zhu, CVPR 2018) takes for each filter the class of the
    largest mean peak (a map's largest activation), averaged over batches, anew in every batch. Classes are then left
    without a filter, by what the first batches happened to be. This project's own rule instead gives each class
    floor(F / K) or ceil(F / K) filters: filters and classes are paired off greedily, by how far the filter's mean peak
    on the class is above its mean over the classes, in units of its largest; the class that a filter has already gets
    a bonus. Until :meth:`reassign` is called for the first time, the classes go round.

    All state is in buffers, the same on all processes if every update has their reduction; statistics stay in float32
    in a network of half precision.

    Args:
        num_filters: F.
        num_classes: K; with more classes than filters, K - F of them have none.
        momentum: Share of the old mean peak that a batch leaves; 0.9 in the released code.
        margin: The bonus, in the same unit: another class must be better by more than this.

    Raises:
        ValueError: If a number is below 1, momentum is outside [0, 1), or margin is negative.
    """

    assignment: Tensor
    mean_peak: Tensor
    images: Tensor
    total: Tensor
    decided: Tensor

    def __init__(self, num_filters: int, num_classes: int, momentum: float = 0.9, margin: float = 0.05) -> None:
        super().__init__()
        if num_filters < 1 or num_classes < 1 or not 0 <= momentum < 1 or not margin >= 0:
            raise ValueError(f"bad {num_filters=}, {num_classes=}, {momentum=} or {margin=}")
        self.num_classes, self.momentum, self.margin = num_classes, momentum, margin
        self.register_buffer("assignment", torch.arange(num_filters) % num_classes)
        self.register_buffer("mean_peak", torch.zeros(num_classes, num_filters))
        self.register_buffer("images", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.int64))
        self.register_buffer("decided", torch.zeros((), dtype=torch.bool))

    @property
    def density(self) -> Tensor:
        """``(K,)`` float32, share of the images so far that belong to each class; NaN before the first."""
        return self.images / self.total

    @property
    def filters_per_class(self) -> Tensor:
        """``(K,)`` int64."""
        return torch.bincount(self.assignment, minlength=self.num_classes)

    @torch.no_grad()
    def update(self, x: Tensor, labels: Tensor, reduction: Reduction = LOCAL) -> None:
        """Add a batch to the mean peaks; nothing outside training. A class without images keeps its own.

        Images with activations that are not finite are left out, as one would spoil the mean for good.

        Args:
            x: ``(B, F, H, W)`` float of at least 0.
            labels: See :func:`~lightning_interp.methods.filters.maths.memberships.memberships`.
            reduction: Over the processes that train; one sum of ``(K, F + 1)`` numbers and one of a single number.

        Raises:
            ValueError: If maps or labels do not fit.
        """
        if not self.training:
            return
        classes, filters = self.mean_peak.shape
        if x.ndim != 4 or x.shape[1] != filters:
            raise ValueError(f"expected maps of {filters} filters (B, F, H, W), got {tuple(x.shape)}")
        members = memberships(labels, classes, len(x))
        peaks = x.detach().float().amax((2, 3))
        finite = peaks.isfinite().all(1)
        members = (members & finite[:, None]).float()
        # Not by a product with 0, which would keep what is not finite.
        peaks = peaks.where(finite[:, None], 0.0)
        with torch.autocast(x.device.type, enabled=False):
            sums = reduction.sum(members.T @ torch.cat([peaks, torch.ones_like(peaks[:, :1])], dim=1))
        count = sums[:, -1:]
        # The first images of a class count in full: an average that starts at 0 would take long to forget it.
        old = torch.where(self.images[:, None] > 0, self.momentum, 0.0)
        new = old * self.mean_peak + (1 - old) * sums[:, :-1] / count.clamp(min=1)
        self.mean_peak.copy_(new.where(count > 0, self.mean_peak))
        self.images += count[:, 0].long()
        self.total += reduction.sum(finite.sum().float()).long()

    @torch.no_grad()
    def reassign(self) -> int:
        """Pair filters and classes anew; the number of filters that changed. Call it once an epoch, say."""
        assignment = self._balanced().to(self.assignment.device)
        changed = int((assignment != self.assignment).sum())
        self.assignment.copy_(assignment)
        self.decided.fill_(True)
        return changed

    def _balanced(self) -> Tensor:
        """``(F,)`` int64, the greedy pairing."""
        classes, filters = self.mean_peak.shape
        # On the processor and in one order, so that all processes come to the same.
        peak = self.mean_peak.cpu().double()
        largest = peak.amax(0)
        gain = (peak - peak.mean(0)) / largest.where(largest > 0, 1.0)
        if self.decided:
            gain[self.assignment.cpu(), torch.arange(filters)] += self.margin
        least, spare = divmod(filters, classes)
        count, chosen = [0] * classes, [-1] * filters
        for pair in gain.flatten().argsort(descending=True, stable=True).tolist():
            label, unit = divmod(pair, filters)
            if chosen[unit] >= 0 or count[label] > least or (count[label] == least and not spare):
                continue
            spare -= count[label] == least
            chosen[unit] = label
            count[label] += 1
        return torch.tensor(chosen)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FilterAssignment":
        exact = self.mean_peak
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Half precision would round the mean away; moves to another device are kept.
        self.mean_peak = exact.to(self.mean_peak.device)
        return self
