"""Class-specific gates: which filters may speak for which class."""

import torch
from torch import Tensor, nn


class ClassSpecificGate(nn.Module):
    """A gate in [0, 1] for each class and filter, on the way that the label opens in training.

    Class-specific gates of Liang et al. (ECCV 2020), as read in their code: in some epochs (1 in 3 after 10 of warm-up)
    the features of the last convolution are multiplied by the gates of the image's own class, and the loss has
    :meth:`penalty` (times 1e-3) beside the cross-entropy. After each step of the optimiser comes :meth:`project`.
    It makes filters speak for few classes, and says nothing about places.

    Args:
        num_filters: F.
        num_classes: K.
        density: Share of the gates that may be open without penalty.

    Raises:
        ValueError: If density is outside [0, 1].
    """

    def __init__(self, num_filters: int, num_classes: int, density: float = 0.2) -> None:
        super().__init__()
        if not 0 <= density <= 1:
            raise ValueError(f"density must be in [0, 1], got {density}")
        self.density = density
        self.gate = nn.Parameter(torch.full((num_classes, num_filters), 0.5))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Features through the gates of their classes.

        Args:
            x: ``(B, F, H, W)`` float.
            labels: ``(B,)`` int64 in [0, K).

        Returns:
            ``(B, F, H, W)`` of x's dtype.
        """
        return x * self.gate[labels][..., None, None].to(x.dtype)

    def penalty(self) -> Tensor:
        """``relu(|G|_1 - density K F)``: a scalar, 0 while few gates are open."""
        return (self.gate.abs().sum() - self.density * self.gate.numel()).relu()

    @torch.no_grad()
    def project(self) -> None:
        """Divide each filter's gates by its largest, and clip to [0, 1]; a filter without an open gate stays shut."""
        largest = self.gate.amax(0)
        self.gate.div_(largest.where(largest > 0, 1.0)).clamp_(0, 1)
