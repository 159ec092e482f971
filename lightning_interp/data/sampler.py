"""Exact sharding of a probe set."""

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class ShardSampler(Sampler[int]):
    """Indices ``rank, rank + world, rank + 2 * world, ...``: every image once, on one process.

    ``DistributedSampler`` repeats images until the processes have equally many, so that counts depend on the
    number of processes. This one never does; a process may have fewer images than another, or none.

    Args:
        indices: The images of the whole probe set.
        rank: Number of this process, from 0.
        world: Number of processes.

    Raises:
        ValueError: If ``rank`` is not in [0, world).

    Example:
        >>> [list(ShardSampler(range(5), rank, 3)) for rank in range(3)]
        [[0, 3], [1, 4], [2]]
    """

    def __init__(self, indices: Sequence[int], rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in [0, {world})")
        self.indices = list(indices)[rank::world]

    def __iter__(self) -> Iterator[int]:
        """The indices of this process, in order."""
        return iter(self.indices)

    def __len__(self) -> int:
        """How many images this process has."""
        return len(self.indices)
