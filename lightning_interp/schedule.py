"""When to probe, and how much a loss weighs as training goes on."""

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


@dataclass(frozen=True)
class AtEnd:
    """Probe the trained network, once, when the training ends.

    The scores go to the loggers, the files to the folder ``end``; there is no epoch left in which to monitor them.
    """


@dataclass(frozen=True)
class Ramp:
    """A weight that is 0 at first, then grows in equal steps, then stays or decays.

    Args:
        weight: Its final value, at least 0.
        start_epoch: First epoch, from 0, in which it is not 0.
        epochs: Steps to the final value, one an epoch; 1 for all at once.
        decay: From then on divide it by 1, 2, 3 and so on, one an epoch: the 1/t of the t-th epoch by which
            interpretable CNNs (Zhang, Wu, Zhu, CVPR 2018, and their code) weigh their filter loss.

    Raises:
        ValueError: If the weight or ``start_epoch`` is negative, or ``epochs`` below 1.

    Example:
        >>> [Ramp(8.0, start_epoch=1, epochs=4).at(epoch) for epoch in range(6)]
        [0.0, 2.0, 4.0, 6.0, 8.0, 8.0]
        >>> [Ramp(8.0, start_epoch=1, decay=True).at(epoch) for epoch in range(5)]
        [0.0, 8.0, 4.0, 2.6666666666666665, 2.0]
    """

    weight: float
    start_epoch: int = 0
    epochs: int = 1
    decay: bool = False

    def __post_init__(self) -> None:
        # Not "weight < 0", which a NaN would pass.
        if not self.weight >= 0 or self.start_epoch < 0 or self.epochs < 1:
            raise ValueError(f"{self}: the weight and start_epoch must be at least 0, epochs at least 1")

    def at(self, epoch: int) -> float:
        """The weight in ``epoch``, from 0."""
        step = max(epoch + 1 - self.start_epoch, 0)
        divisor = max(step - self.epochs, 0) + 1 if self.decay else 1
        return float(self.weight) * min(step, self.epochs) / self.epochs / divisor


def as_ramp(weight: float | Ramp) -> Ramp:
    """A plain number is a weight that never changes."""
    return weight if isinstance(weight, Ramp) else Ramp(weight)
