"""Which images belong to which classes, from labels of any form, checked."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

# What torch's cross-entropy leaves out by default.
_IGNORED = -100


def memberships(labels: Tensor, num_classes: int, num_images: int) -> Tensor:
    """Labels as memberships; a bool tensor of this shape is given back as it is, without a look at its values.

    Args:
        labels: ``(B,)`` classes from 0, of any type as long as they are whole numbers, or ``(B, K)`` memberships, bool
            or numbers 0 and 1; a row of zeros for an image of no class.
        num_classes: K.
        num_images: B.

    Returns:
        ``(B, K)`` bool.

    Raises:
        ValueError: If the labels are no tensor of such a shape, or a value fits no class; the message names it.
    """
    forms = f"a tensor of classes (B,) or memberships (B, {num_classes}) of {num_images} images"
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be {forms}, not {type(labels).__name__}")
    if labels.shape not in ((num_images,), (num_images, num_classes)):
        raise ValueError(f"labels must be {forms}, got {tuple(labels.shape)}")
    if labels.ndim == 2:
        if labels.dtype != torch.bool:
            _check(labels, (labels == 0) | (labels == 1), "membership {} is neither 0 nor 1")
        return labels.bool()
    fits = (labels >= 0) & (labels < num_classes) & (labels % 1 == 0)
    _check(labels, fits, f"label {{}} is none of the {num_classes} classes, which are numbered from 0")
    return one_hot(labels.long(), num_classes).bool()


def _check(labels: Tensor, fits: Tensor, text: str) -> None:
    """Name the first value that does not fit."""
    if bool(fits.all()):
        return
    value = labels[~fits][0].item()
    hint = f"; {_IGNORED} is torch's ignore_index: give memberships (B, K), with a row of zeros for such an image"
    raise ValueError(text.format(value) + (hint if value == _IGNORED else ""))
