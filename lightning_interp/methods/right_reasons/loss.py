"""Right for the right reasons: a penalty on what the input outside a region does to the answer."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid

from lightning_interp.functional.fills import check_masks
from lightning_interp.schedule import Ramp, as_ramp

Task = Literal["binary", "multilabel", "multiclass"]


def class_log_probs(logits: Tensor, task: Task) -> Tensor:
    """Log-probabilities of every class of every question that the network answers.

    Args:
        logits: ``"binary"``: ``(B,)`` or ``(B, 1)``, log-odds of 1; ``"multilabel"``: ``(B, K)``, K of those;
            ``"multiclass"``: ``(B, K)``, K of at least 2.
        task: What the logits mean.

    Returns:
        ``(B, 2)``, ``(B, 2 K)`` or ``(B, K)``, in float32 at least; binary and multilabel have log p first, then
        log(1 - p).

    Raises:
        ValueError: If the task is unknown or the logits have another shape.
    """
    _check_task(task)
    flat = logits[:, None] if logits.ndim == 1 else logits
    fits = {"binary": flat.shape[1:] == (1,), "multilabel": flat.ndim == 2, "multiclass": flat.ndim == 2}
    if not fits[task] or (task == "multiclass" and flat.shape[1] < 2):
        raise ValueError(f"logits of shape {tuple(logits.shape)} do not fit task={task!r}")
    # Half precision would round log p to 0 where the network is sure.
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    if task == "multiclass":
        return log_softmax(flat, dim=1)
    return torch.cat([logsigmoid(flat), logsigmoid(-flat)], dim=1)


def right_reasons_penalty(log_probs: Tensor, images: Tensor, outside: Tensor) -> Tensor:
    """Sum over the pixels outside a region of ``(d sum_k log p_k / dx)^2``, mean over the batch.

    The first term of Ross, Hughes, Doshi-Velez, "Right for the Right Reasons" (IJCAI 2017), without its weight. It
    is 0 for a network that answers "do not know" (all p equal), whatever it looks at: it holds back a shortcut only
    as far as the network is sure of it. Its scale goes with the square of the inputs' scale and with the resolution;
    the authors choose the weight so that penalty and loss are of one order of magnitude.

    The penalty can be trained on, for it is built to be differentiated again. Layers that can only be
    differentiated once (fused attention, compiled modules, SyncBatchNorm) raise torch's own error. With batch
    statistics (BatchNorm in training) an image's gradient also holds what it does to the others of the batch.

    Args:
        log_probs: ``(B, K)`` float, log p_k, computed from ``images``; see :func:`class_log_probs`.
        images: ``(B, C, H, W)`` float, the network's input, with ``requires_grad``.
        outside: ``(B, H, W)`` bool, the pixels that should not matter; an image without any adds 0.

    Returns:
        Scalar, in float32 at least. Unit: nats squared over units of the input squared.

    Raises:
        ValueError: If the images do not require gradients, or the mask is not bool or not of their size.
    """
    check_masks(images, outside)
    if not images.requires_grad:
        raise ValueError("the images need gradients: call images.requires_grad_() before the forward pass")
    (gradient,) = torch.autograd.grad(log_probs.sum(), images, create_graph=True)
    # Squares of half-precision numbers overflow.
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return (gradient * outside[:, None]).square().sum() / len(images)


def outside_region(region: Tensor) -> Tensor:
    """The pixels outside each region; none where the region is empty, for then it is not known where to look.

    Args:
        region: ``(B, H, W)`` bool.

    Returns:
        ``(B, H, W)`` bool.
    """
    return ~region & region.flatten(1).any(dim=1)[:, None, None]


class RightReasonsLoss(nn.Module):
    """The weighted right-reasons penalty, to be added to a loss by hand; see :func:`right_reasons_penalty`.

    In a training step, with automatic or manual optimisation::

        images = images.requires_grad_()
        logits = self(images)
        loss = cross_entropy(logits, y) + self.right_reasons(logits, images, region, self.current_epoch)

    Args:
        weight: Weight, or how it grows over the epochs.
        task: What the logits mean; see :func:`class_log_probs`.
    """

    def __init__(self, weight: float | Ramp, task: Task) -> None:
        super().__init__()
        _check_task(task)
        self.weight, self.task = as_ramp(weight), task

    def forward(self, logits: Tensor, images: Tensor, region: Tensor, epoch: int = 0) -> Tensor:
        """Weight times penalty: a scalar, and a constant 0 in epochs in which the weight is 0.

        Args:
            logits: The network's output for ``images``.
            images: ``(B, C, H, W)`` float with ``requires_grad``.
            region: ``(B, H, W)`` bool, what should matter; images whose region is empty are passed over, and count
                in the mean over the batch as 0.
            epoch: From 0.
        """
        weight = self.weight.at(epoch)
        return weight * self.penalty(logits, images, region) if weight else images.new_zeros(())

    def penalty(self, logits: Tensor, images: Tensor, region: Tensor) -> Tensor:
        """The same without the weight."""
        check_masks(images, region)
        return right_reasons_penalty(class_log_probs(logits, self.task), images, outside_region(region))


def _check_task(task: str) -> None:
    if task not in get_args(Task):
        raise ValueError(f"unknown task {task!r}; there are {', '.join(get_args(Task))}")
