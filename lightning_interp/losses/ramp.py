"""How a weight grows over the epochs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """A weight that is 0 at first, then grows in equal steps, then stays.

    Args:
        weight: Its final value, at least 0.
        start_epoch: First epoch, from 0, in which it is not 0.
        epochs: Steps to the final value, one an epoch; 1 for all at once.

    Raises:
        ValueError: If the weight or ``start_epoch`` is negative, or ``epochs`` below 1.

    Example:
        >>> [Ramp(8.0, start_epoch=1, epochs=4).at(epoch) for epoch in range(6)]
        [0.0, 2.0, 4.0, 6.0, 8.0, 8.0]
    """

    weight: float
    start_epoch: int = 0
    epochs: int = 1

    def __post_init__(self) -> None:
        # Not "weight < 0", which a NaN would pass.
        if not self.weight >= 0 or self.start_epoch < 0 or self.epochs < 1:
            raise ValueError(f"{self}: the weight and start_epoch must be at least 0, epochs at least 1")

    def at(self, epoch: int) -> float:
        """The weight in ``epoch``, from 0."""
        step = min(max(epoch + 1 - self.start_epoch, 0), self.epochs)
        return float(self.weight) * step / self.epochs


def as_ramp(weight: float | Ramp) -> Ramp:
    """A plain number is a weight that never changes."""
    return weight if isinstance(weight, Ramp) else Ramp(weight)
