"""Groups of a biased training set, drawn equally often."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Generator, Tensor
from torch.utils.data import DistributedSampler, TensorDataset


class GroupBalancedSampler(DistributedSampler[int]):
    """Draws every group, such as every pair (label, context), equally often.

    Group re-weighting, the usual remedy where each group has some images (Sagawa et al. 2020; Idrissi et al. 2022).
    The numbers are exact in every epoch, not on average: each group gets its share of the draws, rounded to whole
    numbers, and within a group no image is drawn once more before every other was drawn as often.

    The draws follow from seed and epoch alone; Lightning calls :meth:`set_epoch`. Processes share out one epoch's
    draws: equally many for each, which rounds their sum up to a multiple of their number, and each drawn for its own
    sake, none repeated to fill up. It is a ``DistributedSampler`` so that Lightning leaves it in place, and asks for
    rank and world only when it is used, so it may be made before the processes are.

    Args:
        groups: ``(N,)`` or ``(N, A)`` integer, one row an image of the data set; equal rows are one group.
        weights: ``"balanced"``, or the share of each group of :attr:`groups`, in any unit; 0 leaves a group out.
        num_samples: Draws in an epoch over all processes; None for N.
        seed: At least 0.
        rank: Number of this process; None for that of ``torch.distributed``, or 0 without.
        world: Number of processes, as ``rank``.

    Attributes:
        groups: ``(G,)`` or ``(G, A)``: the groups that occur, sorted.

    Raises:
        ValueError: If there are no images or draws, the weights are not one finite number of at least 0 a group with
            a positive sum, or only one of rank and world is given or rank is not in [0, world).

    Example:
        >>> sampler = GroupBalancedSampler(torch.tensor([[0, 0], [0, 0], [0, 0], [1, 1], [1, 0], [1, 0]]))
        >>> len(sampler), sorted(sampler).count(3)
        (6, 2)
    """

    def __init__(
        self,
        groups: Tensor,
        *,
        weights: Literal["balanced"] | Sequence[float] = "balanced",
        num_samples: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        total = len(groups) if num_samples is None else num_samples
        if len(groups) == 0 or total < 1:
            raise ValueError(f"{len(groups)} images and {total} draws; both must be at least 1")
        if (rank is None) != (world is None):
            raise ValueError("give both of rank and world, or none")
        super().__init__(TensorDataset(groups), num_replicas=1 if world is None else world, rank=rank or 0, seed=seed)
        self.groups, number = torch.unique(groups.cpu(), dim=0, return_inverse=True)
        self._members = [(number == group).nonzero()[:, 0] for group in range(len(self.groups))]
        self._shares = _shares(weights, len(self.groups))
        self._draws, self._fixed = total, rank is not None

    def __iter__(self) -> Iterator[int]:
        """The draws of this process in this epoch."""
        rank, world = self._place()
        generator = Generator().manual_seed(int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0]))
        total = len(self) * world
        counts = _apportion(self._shares, total, generator)
        drawn = [_draw(own, count, generator) for own, count in zip(self._members, counts, strict=True)]
        order = torch.cat(drawn)[torch.randperm(total, generator=generator)]
        return iter(order[rank::world].tolist())

    def __len__(self) -> int:
        """Draws of each process in an epoch."""
        return math.ceil(self._draws / self._place()[1])

    def _place(self) -> tuple[int, int]:
        """``(rank, world)``."""
        if self._fixed or not (dist.is_available() and dist.is_initialized()):
            return self.rank, self.num_replicas
        return dist.get_rank(), dist.get_world_size()


def _shares(weights: Literal["balanced"] | Sequence[float], num: int) -> Tensor:
    """``(G,)`` float64, positive or 0, with sum 1."""
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"weights={weights!r} is neither 'balanced' nor a list of numbers")
        weights = [1.0] * num
    shares = torch.tensor(list(weights), dtype=torch.float64)
    if len(shares) != num or not bool((shares >= 0).all() & shares.isfinite().all() & (shares.sum() > 0)):
        raise ValueError(f"weights={list(weights)}: give {num} finite numbers of at least 0, not all of them 0")
    return shares / shares.sum()


def _apportion(shares: Tensor, total: int, generator: Generator) -> list[int]:
    """Whole numbers in these proportions that sum to ``total``: largest remainders, equal ones by lot."""
    # Rounded, so that shares that are equal but for their last bit count as equal.
    exact = (shares * total).round(decimals=6)
    counts = exact.floor()
    lot = torch.randperm(len(shares), generator=generator)
    by_remainder = lot[(exact - counts)[lot].argsort(descending=True, stable=True)]
    counts[by_remainder[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _draw(members: Tensor, count: int, generator: Generator) -> Tensor:
    """``(count,)`` of the members, in rounds of which each holds every member once in random order."""
    rounds = math.ceil(count / len(members))
    order = torch.rand(rounds, len(members), generator=generator, dtype=torch.float64).argsort(dim=1)
    return members[order.flatten()[:count]]
