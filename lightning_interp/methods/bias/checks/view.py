"""One batch of the probe set as the checks see it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from lightning_interp.functional.heads import attribute_logit, column
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.maths.groups import predicted_classes
from lightning_interp.probing.evidence.gradients import Gradients

Fetch = Callable[[Sequence[int]], tuple[Tensor, dict[str, Tensor]]]


class View:
    """Some images of the probe set, their labels and regions, and the network to ask about them.

    Args:
        asked: The question.
        indices: The B images.
        images: ``(B, C, H, W)`` float in [0, 1], on the network's device.
        masks: By region, ``(B, H, W)`` bool.
        answer: Gives the network's logits for such images, ``(B, K)`` or ``(B,)``, whatever B.
        fetch: Reads images and masks of other indices.
        gradients: Gives the activations of the layer looked at and their gradients.
        attribute: Gives signed evidence ``(B, h, w)`` by its positions, where gradient times activation is not wanted.
    """

    def __init__(
        self,
        asked: Asked,
        indices: Sequence[int],
        images: Tensor,
        masks: Mapping[str, Tensor],
        answer: Callable[[Tensor], Tensor],
        fetch: Fetch,
        gradients: "Callable[[View], Gradients]",
        attribute: "Callable[[View], Tensor] | None" = None,
    ) -> None:
        self.asked, self.indices, self.images, self.masks = asked, list(indices), images, masks
        self.answer, self.fetch, self._gradients = answer, fetch, gradients
        self.attribute = attribute

    def label(self, name: str) -> Tensor:
        """``(B,)`` int64, -1 where unknown."""
        known = self.asked.labels.get(name)
        if known is None:
            return torch.full((len(self.indices),), -1, device=self.images.device)
        return known[self.indices].to(self.images.device)

    @cached_property
    def target(self) -> Tensor:
        """``(B,)`` int64, labels of the target."""
        return self.label(self.asked.target)

    @cached_property
    def outputs(self) -> Tensor:
        """``(B, K)`` or ``(B,)`` float64, the network's logits for the images as they are."""
        return self.answer(self.images).double()

    @cached_property
    def scores(self) -> Tensor:
        """``(B,)`` float64, s of the images as they are."""
        return self.score_of(self.outputs)

    @cached_property
    def predicted(self) -> Tensor:
        """``(B,)`` int64, the class predicted for the images as they are; -1 for NaN."""
        return self.classes_of(self.outputs)

    @cached_property
    def certainty(self) -> Tensor:
        """``(B,)`` float64, log-odds of the predicted class."""
        if self.asked.num_classes == 2:
            return self.scores.abs()
        return attribute_logit(self.outputs, self.asked.target, None, self.predicted)

    def score(self, images: Tensor) -> Tensor:
        """``(B,)`` float64, s of the same images, changed."""
        return self.score_of(self.answer(images).double())

    def score_of(self, outputs: Tensor) -> Tensor:
        """``(B,)``, s from the network's logits."""
        return attribute_logit(outputs, self.asked.target, self.asked.outputs, self.target)

    def classes(self, images: Tensor) -> Tensor:
        """``(B,)`` int64, the class predicted for the same images, changed."""
        return self.classes_of(self.answer(images).double())

    def classes_of(self, outputs: Tensor) -> Tensor:
        """``(B,)`` int64, the class predicted, from the network's logits."""
        if self.asked.outputs is not None:
            return predicted_classes(column(outputs, self.asked.target, self.asked.outputs))
        return predicted_classes(outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs)

    def sign_label(self, name: str) -> Tensor:
        """``(B,)`` int64: what signs effects on the score: 0 or 1, -1 where unknown.

        With more than two classes, the score is the true class's and is always to go up.
        """
        labels = self.label(name)
        if name == self.asked.target and self.asked.num_classes > 2:
            return torch.where(labels >= 0, 1, labels)
        return labels

    def fetch_donors(self, donors: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Donors of these images, and which have one; an image without stands in for it.

        Args:
            donors: ``(N,)`` int64, of :meth:`~lightning_interp.methods.bias.checks.asked.Asked.donors`.

        Returns:
            Images ``(B, C, H, W)``, by region masks ``(B, H, W)`` bool, and ``(B,)`` bool.
        """
        at = donors[self.indices]
        images, masks = self.fetch(torch.where(at >= 0, at, torch.tensor(self.indices)).tolist())
        return images, masks, (at >= 0).to(images.device)

    @cached_property
    def gradients(self) -> Gradients:
        """Gradients at the layer looked at."""
        return self._gradients(self)
