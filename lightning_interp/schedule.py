"""When to probe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Every:
    """Probe every few epochs.

    Args:
        n_epochs: Epochs from one probe to the next; the first epoch is always probed, so that every score has a
            value from the start.
        at_start: Probe before training too: the untrained network is the reference.
        at_end: Probe the last of ``max_epochs`` epochs too, whenever the one before was; training that ends otherwise
            (``max_steps``, early stopping) is not known to be at its last epoch.

    Raises:
        ValueError: If ``n_epochs`` is below 1.

    Example:
        >>> every = Every(n_epochs=2)
        >>> [every.due(epoch, last) for epoch, last in [(0, None), (1, 0), (2, 0)]]
        [True, False, True]
    """

    n_epochs: int = 1
    at_start: bool = False
    at_end: bool = True

    def __post_init__(self) -> None:
        if self.n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, got {self.n_epochs}")

    def due(self, epoch: int, last_probed: int | None, max_epochs: int | None = None) -> bool:
        """Whether to probe at the end of ``epoch``; never twice in one.

        Args:
            epoch: The epoch that is ending, from 0.
            last_probed: The epoch probed last, None before the first.
            max_epochs: How many epochs there will be, if that is known.
        """
        if last_probed is None:
            return True
        last_epoch = self.at_end and max_epochs is not None and epoch == max_epochs - 1
        return epoch - last_probed >= self.n_epochs or (last_epoch and epoch > last_probed)
