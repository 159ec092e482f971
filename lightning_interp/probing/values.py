"""Reading a metric's values over all processes."""

import warnings

from torch import Tensor
from torchmetrics import Metric


def computed(metric: Metric, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """A metric's values over all processes, on the CPU, where gloo can sum them; a collective call.

    Args:
        metric: The metric.
        shapes: Shapes of its values: torchmetrics makes a scalar of every tensor with a single element, as one unit
            or one concept alone would give.
    """
    with warnings.catch_warnings():
        # A process without images, or without a second image to re-pair with, has rightly updated nothing.
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric", category=UserWarning)
        values = metric.cpu().compute()
    return tuple(value.reshape(shape) for value, shape in zip(values, shapes, strict=True))
