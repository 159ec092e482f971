"""Contexts that no longer go with the label: an augmentation of training batches."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from lightning_interp.functional.fills import check_masks, fill
from lightning_interp.functional.swaps import swap_background
from lightning_interp.schedule import Ramp, as_ramp

How = Literal["swap", "fill"]


@dataclass(frozen=True)
class ContextRandomiser:
    """Swap or fill the context of training images, and leave every other pixel as it is.

    ``"swap"``: images of the batch are given each other's context along a random cycle, so that an image never keeps
    its own; in the place of what is no context in the donor (its mouth, say) stands the mean colour of the donor's
    context. After Mixed-Rand of ImageNet-9 (Xiao et al. 2021), as an augmentation. ``"fill"``: the mean colour of the
    image's other pixels. Labels stay, so that a context that goes with the label at correlation rho does so at
    (1 - p) rho in the images that the network sees.

    Images without context are neither changed nor donors; nor is the only image with context in its batch.

    Args:
        how: ``"swap"`` or ``"fill"``.
        p: Probability, image by image, or how it grows over the epochs.

    Raises:
        ValueError: If ``how`` is unknown, or p is outside [0, 1].
    """

    how: How = "swap"
    p: float | Ramp = 0.5

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise ValueError(f"unknown how={self.how!r}; there are {', '.join(get_args(How))}")
        if as_ramp(self.p).weight > 1:
            raise ValueError(f"p must be in [0, 1], got {self.p}")

    def __call__(self, images: Tensor, context: Tensor, epoch: int = 0, generator: Generator | None = None) -> Tensor:
        """The batch with some contexts replaced.

        Args:
            images: ``(B, C, H, W)`` float, normalised or not.
            context: ``(B, H, W)`` bool.
            epoch: From 0.
            generator: Source of chance, on the processor; None for torch's global one.

        Returns:
            ``(B, C, H, W)``; pixels outside the context keep every bit.

        Raises:
            ValueError: If the mask is not bool or not of the images' size.
        """
        check_masks(images, context)
        chosen = torch.rand(len(images), generator=generator) < as_ramp(self.p).at(epoch)
        if self.how == "fill":
            new = fill(images, context, "mean")
        else:
            donor = _donors(context, generator)
            new = swap_background(images, ~context, images[donor], ~context[donor])
        return torch.where(chosen.to(images.device)[:, None, None, None], new, images)


def _donors(context: Tensor, generator: Generator | None) -> Tensor:
    """``(B,)`` int64: one random cycle through the images that have context; the others are their own donors."""
    partners = torch.arange(len(context), device=context.device)
    having = context.flatten(1).any(dim=1).nonzero()[:, 0]
    cycle = having[torch.randperm(len(having), generator=generator).to(context.device)]
    partners[cycle] = cycle.roll(1)
    return partners
