"""Where processes meet: agreement on what happened, and exact sums.

The package's only collectives, but for those of :func:`~lightning_interp.functional.reduction.training_reduction`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_interp.errors import ProbeError, ResponseError
from lightning_interp.functional.reduction import LOCAL, training_reduction


def agree_in_training(error: Exception | None, device: torch.device) -> None:
    """Let no process that trains wait for one that failed; a collective call over the backend of training.

    Costs one number, and texts only where something went wrong.

    Args:
        error: What went wrong here, if anything.
        device: Where this process trains.

    Raises:
        ProbeError: On every process with the same text, if any of several failed. A single process raises its own
            error as it is.
    """
    reduction = training_reduction()
    if reduction is LOCAL:
        if error is not None:
            raise error
    elif reduction.max(torch.tensor(float(error is not None), device=device)):
        Ranks(dist.get_rank(), dist.get_world_size()).tell(error, None, "training cannot go on")


@dataclass(frozen=True)
class Ranks:
    """The processes that share a probe; by default this one alone.

    All communication of a probe goes over one gloo group with its own time-out, beside whatever backend training uses.

    Args:
        rank: Number of this process, from 0.
        world: Number of processes.
        group: The group; None for a single process.
        timeout: How long to wait for another process.
    """

    rank: int = 0
    world: int = 1
    group: Any = None
    timeout: timedelta = field(default_factory=lambda: timedelta(minutes=10))

    @classmethod
    def connect(cls, timeout: timedelta) -> "Ranks":
        """The processes of ``torch.distributed``; a collective call. One process where it is not initialised."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls(timeout=timeout)
        group = dist.new_group(backend="gloo", timeout=timeout)
        return cls(dist.get_rank(), dist.get_world_size(), group, timeout)

    def agree(self, error: Exception | None, note: Any = None) -> list[Any]:
        """Exchange outcomes before the next step, so that no process waits for one that failed.

        Args:
            error: What went wrong here, if anything.
            note: Anything picklable that every process should know of this one.

        Returns:
            The notes of all processes, by rank.

        Raises:
            ProbeError: On every process with the same text, if any of several failed. A single process raises its
                own error as it is.
            ResponseError: Likewise, if all that failed did so by it.
        """
        if self.world == 1:
            if error is not None:
                raise error
            return [note]
        # Names the process that does not come, where a plain collective would only time out.
        dist.monitored_barrier(self.group, timeout=self.timeout)
        return self.tell(error, note, "the probe failed")

    def together(self, work: Callable[[Callable[[Tensor], Tensor]], Any]) -> list[Any]:
        """Do work that sums over the processes on the way, and let none wait for one whose work has failed.

        Args:
            work: Called with what sums over the processes. It has to ask for the same sums on all of them.

        Returns:
            What the work gave on every process, by rank, picklable.

        Raises:
            ProbeError: As :meth:`agree`.
        """
        known: list[Exception] = []

        def total(values: Tensor) -> Tensor:
            try:
                self.agree(None)
            except Exception as failure:
                known.append(failure)
                raise
            return self.sum(values)

        error, found = None, None
        try:
            found = work(total)
        except Exception as failure:
            if failure in known:
                raise
            error = failure
        return self.agree(error, found)

    def tell(self, error: Exception | None, note: Any, what: str) -> list[Any]:
        """As :meth:`agree`, for several processes that are known to come, with ``what`` before the errors."""
        outcomes: list[Any] = [None] * self.world
        text = None if error is None else f"rank {self.rank}: {type(error).__name__}: {error}"
        dist.all_gather_object(outcomes, (text, isinstance(error, ResponseError), note), group=self.group)
        failures = [failure for failure, _, _ in outcomes if failure is not None]
        if failures:
            mild = all(is_mild for failure, is_mild, _ in outcomes if failure is not None)
            raise (ResponseError if mild else ProbeError)(f"{what}; " + "; ".join(failures)) from error
        return [other for _, _, other in outcomes]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank zero, in place; a collective call."""
        if self.world == 1:
            return
        for tensor in tensors:
            values = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            # As bytes, for gloo knows few types.
            dist.broadcast(values.reshape(-1).view(torch.uint8), src=0, group=self.group)
            tensor.copy_(values)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, on the CPU; int64 stays exact."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def min(self, values: Tensor) -> Tensor:
        """Minimum over the processes, on the CPU."""
        return self._reduce(values, dist.ReduceOp.MIN)

    def _reduce(self, values: Tensor, operation: Any) -> Tensor:
        if self.world == 1:
            return values
        total = values.cpu().clone()
        dist.all_reduce(total, op=operation, group=self.group)
        return total.to(values.device)

    def close(self) -> None:
        """Release the group; a collective call."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group(self.group)
