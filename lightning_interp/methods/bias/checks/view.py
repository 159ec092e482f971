"""One batch of the probe set as the checks see it."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from lightning_interp.data.region_bank import RegionBank
from lightning_interp.functional.heads import attribute_logit, column
from lightning_interp.methods.bias.checks.asked import Asked
from lightning_interp.methods.bias.maths.groups import predicted_classes
from lightning_interp.probing.evidence.attribution import Attribution, captum_heat
from lightning_interp.probing.evidence.gradients import Gradients
from lightning_interp.probing.evidence.tail import Tail
from lightning_interp.probing.view import Network, View


class BiasView(View):
    """Some images of the probe set, their labels and regions, and the network to ask about them.

    Args:
        network: The network.
        indices: The B images.
        images: ``(B, C, H, W)`` float in [0, 1], on its device.
        read: Reads another image.
        asked: The question.
        bank: Region masks.
        layer: The layer looked at; None for none.
        attribution: How evidence is traced to it.
    """

    def __init__(
        self,
        network: Network,
        indices: Sequence[int],
        images: Tensor,
        read: Callable[[int], Tensor | None],
        *,
        asked: Asked,
        bank: RegionBank,
        layer: str | None,
        attribution: Attribution,
    ) -> None:
        super().__init__(network, indices, images, read)
        self.asked, self.bank, self.layer, self.attribution = asked, bank, layer, attribution

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """By region, ``(B, H, W)`` bool."""
        return self._masks(self.indices)

    def _masks(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return {name: mask.to(self.images.device) for name, mask in self.bank(indices).items()}

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
        at = donors[self.indices].tolist()
        images, known = self.others(at)
        there = zip(at, self.indices, known.tolist(), strict=True)
        return images, self._masks([donor if has else own for donor, own, has in there]), known

    @cached_property
    def gradients(self) -> Gradients:
        """Gradients of the named outputs, or of the score, at the layer looked at."""
        assert self.layer is not None  # what needs a layer does not run without
        named = self.asked.outputs is not None
        return self.gradients_at(self.layer, None if named else lambda images: self.score(images)[:, None])

    def after_layer(self) -> Tail:
        """The score as a function of the activations of the layer looked at."""
        assert self.layer is not None
        labels = self.network.padded(self.target)
        asked = self.asked
        return self.tail(self.layer, lambda out: attribute_logit(out.double(), asked.target, asked.outputs, labels))

    def captum_heat(self) -> Tensor:
        """``(B, h, w)``, signed evidence at the layer's positions, where gradient times activation is not wanted."""
        found = captum_heat(self.attribution, self.after_layer(), self.network.module)
        return found[: len(self.indices)]
