"""How small statistics of a batch become those of the batches of all processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class Reduction:
    """Sum and maximum over processes; by default those of this process alone.

    Every process must call what uses one equally often: the number and the shapes of the calls never depend on data.

    Args:
        sum: The elementwise sum over processes, of any float tensor.
        max: The elementwise maximum over processes, of any float tensor; -inf where none has a value.
    """

    sum: Callable[[Tensor], Tensor] = _same
    max: Callable[[Tensor], Tensor] = _same


LOCAL = Reduction()


def training_reduction() -> Reduction:
    """Sum and maximum over the processes that train, by the backend of training and on the batch's own device."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return LOCAL

    def reduced(values: Tensor, operation: Any) -> Tensor:
        total = values.clone()
        dist.all_reduce(total, op=operation)
        return total

    return Reduction(
        lambda values: reduced(values, dist.ReduceOp.SUM), lambda values: reduced(values, dist.ReduceOp.MAX)
    )
