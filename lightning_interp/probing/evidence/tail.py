"""What follows a layer, as a module of its own: the score as a function of the layer's activations."""

from collections.abc import Callable

from torch import Tensor, nn

from lightning_interp.probing.tap import tap


class Probe(nn.Module):
    """Stands where the layer's output was, so that hooks on the layer itself are not needed."""

    def forward(self, maps: Tensor) -> Tensor:
        """A copy, for what follows may work in place."""
        return maps.clone()


class Score(nn.Module):
    """The score of the network's outputs."""

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._score = score

    def forward(self, outputs: Tensor) -> Tensor:
        """``(B,)`` from ``(B, ...)``."""
        return self._score(outputs)


class Tail(nn.Module):
    """The score s of some images as a function of a layer's activations; only that part is differentiated.

    The network itself is not among its children: nothing that is done to this module is done to the network.

    Args:
        layer: The layer.
        name: Its name, for messages.
        images: ``(B, ...)``.
        answer: Gives the network's outputs of such images, by a forward pass through the layer.
        score: Gives ``(B,)`` scores of such outputs.
    """

    def __init__(
        self,
        layer: nn.Module,
        name: str,
        images: Tensor,
        answer: Callable[[Tensor], Tensor],
        score: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.name, self.images = name, images
        self.probe, self.score = Probe(), Score(score)
        # In containers, for modules that are attributes would become children.
        self._layers, self._answers = {name: layer}, (answer,)

    def answer(self, images: Tensor) -> Tensor:
        """The network's outputs of images."""
        return self._answers[0](images)

    def maps(self, images: Tensor) -> Tensor:
        """Activations ``(B, C, h, w)`` float32 of the layer, for these or other images.

        Raises:
            LayerError: If the layer does not give maps exactly once.
        """
        with tap(self._layers) as taps:
            self.answer(images)
            maps = taps.collect()
        return maps[self.name]

    def forward(self, maps: Tensor) -> Tensor:
        """``(B,)``, s of the images with the layer's activations replaced by ``(B, C, h, w)``."""

        def replace(module: nn.Module, args: object, output: Tensor) -> Tensor:
            # Another copy: libraries replace the probe's output by a leaf, which nothing may change in place.
            probed: Tensor = self.probe(maps)
            return probed.to(output.dtype).clone()

        handle = self._layers[self.name].register_forward_hook(replace)
        try:
            outputs = self.answer(self.images)
        finally:
            handle.remove()
        scores: Tensor = self.score(outputs)
        return scores
