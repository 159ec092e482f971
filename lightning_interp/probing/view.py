"""Some images of a probe set, and the network to ask about them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lightning_interp.errors import DatasetError
from lightning_interp.probing.evidence.gradients import Gradients, layer_gradients
from lightning_interp.probing.evidence.tail import Tail
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.runner import Forward, Normalize, module_device, prepare

Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """A network as it is asked: about images in [0, 1], and always about as many at a time.

    Args:
        module: The network, unwrapped.
        forward: How to call it on prepared images; None for the module itself.
        normalize: ``(mean, std)`` by channel, for images in [0, 1].
        rows: Images a forward pass.
    """

    module: nn.Module
    forward: Forward | None
    normalize: Normalize | None
    rows: int

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return module_device(self.module)

    def padded(self, batch: Tensor) -> Tensor:
        """``(rows, ...)``, the last row repeated: another shape may take another path and other last bits."""
        return torch.cat([batch, batch[-1:].expand(self.rows - len(batch), *batch.shape[1:])])

    def __call__(self, images: Tensor) -> Tensor:
        """The outputs for at most ``rows`` images, ``(B, K)`` or ``(B,)`` float32.

        Raises:
            DatasetError: If they are not one row an image.
        """
        call = self.module if self.forward is None else self.forward
        outputs = call(prepare(self.padded(images), self.module, self.normalize))
        if not isinstance(outputs, Tensor):
            raise DatasetError(f"the network gives a {type(outputs).__name__}; expected a tensor of logits")
        if outputs.shape[:1] != (self.rows,):
            raise DatasetError(f"{self.rows} images give {tuple(outputs.shape)}, not one row of logits each")
        return outputs[: len(images)].float()


class View:
    """Some images of a probe set, and the network to ask about them.

    Args:
        network: The network.
        indices: The B images, at most as many as the network is asked about at a time.
        images: ``(B, C, H, W)`` float in [0, 1], on its device.
        read: Reads another image, ``(C, H, W)`` float in [0, 1]; None for one that is to be skipped.
    """

    def __init__(
        self, network: Network, indices: Sequence[int], images: Tensor, read: Callable[[int], Tensor | None]
    ) -> None:
        self.network, self.indices, self.images, self._read = network, list(indices), images, read

    def answer(self, images: Tensor) -> Tensor:
        """``(B, K)`` or ``(B,)`` float32, what the network says of the same images, changed."""
        return self.network(images)

    @cached_property
    def outputs(self) -> Tensor:
        """``(B, K)`` or ``(B,)`` float64, what it says of the images as they are."""
        return self.answer(self.images).double()

    def others(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Another image for each of these, which stands in for itself where there is none.

        Args:
            indices: B images; -1 for none.

        Returns:
            Images ``(B, C, H, W)``, and ``(B,)`` bool, which are there: not -1, and readable.
        """
        found = [self._read(index) if index >= 0 else None for index in indices]
        known = torch.tensor([image is not None for image in found], device=self.images.device)
        there = [image for image in found if image is not None]
        images = self.images.clone()
        if there:
            images[known] = torch.stack(there).to(images.device)
        return images, known

    def gradients_at(self, layer: str, answer: Answer | None = None) -> Gradients:
        """Activations of a layer, and the slopes of the outputs there.

        Args:
            layer: Its name.
            answer: Gives ``(B, K)`` of such images, by one forward pass; None for the outputs themselves.

        Raises:
            LayerError: If the layer does not run exactly once, or the outputs do not depend on it.
        """
        module = resolve_layers(self.network.module, [layer])[layer]
        found = layer_gradients(module, layer, self.images, answer or self.answer)
        return Gradients(*(part[: len(self.indices)] for part in found))

    def tail(self, layer: str, score: Answer) -> Tail:
        """What follows a layer, of a whole batch: captum wants as many rows of the layer as of scores.

        Args:
            layer: Its name.
            score: Gives ``(B,)`` of the outputs of a padded batch.
        """
        module = resolve_layers(self.network.module, [layer])[layer]
        return Tail(module, layer, self.network.padded(self.images), self.answer, score)
