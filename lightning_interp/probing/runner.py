"""The one loop over a probe set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_interp.data.loading import ProbeBatch
from lightning_interp.errors import DatasetError
from lightning_interp.probing.tap import tap

Forward = Callable[[Tensor], Any]
Normalize = tuple[tuple[float, ...], tuple[float, ...]]


class Pass(Protocol):
    """What sees the maps of every batch."""

    def update(self, batch: ProbeBatch, maps: Mapping[str, Tensor]) -> None:
        """Take in the maps ``{layer: (n, U, h, w) float32}`` of the images ``batch.indices``."""
        ...


class Stopped(Exception):  # noqa: N818 - an event, not an error
    """The run was asked to stop between two batches."""


def run(
    module: nn.Module,
    batches: Iterable[ProbeBatch],
    passes: Sequence[Pass],
    *,
    layers: Mapping[str, nn.Module],
    normalize: Normalize | None = None,
    forward: Forward | None = None,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Forward every batch once and hand the maps of the tapped layers to every pass.

    Call it inside :func:`~lightning_interp.probing.session.probing`.

    Args:
        module: The network, unwrapped.
        batches: From :func:`~lightning_interp.data.loading.probe_batches`.
        passes: What to do with the maps; nothing else keeps them.
        layers: Modules to tap, by name.
        normalize: ``(mean, std)`` by channel, for images in [0, 1].
        forward: How to call the network on prepared images; ``module`` itself by default.
        progress: Called with the number of images after each batch.
        should_stop: Asked before each batch.

    Raises:
        LayerError: If a layer does not give maps exactly once a batch.
        Stopped: If ``should_stop`` said so.
    """
    call = module if forward is None else forward
    with tap(layers) as taps:
        for batch in batches:
            if should_stop is not None and should_stop():
                raise Stopped
            if batch.indices:
                call(prepare(batch.images, module, normalize))
                count = len(batch.indices)
                maps = {name: values[:count] for name, values in taps.collect().items()}
                for each in passes:
                    each.update(batch, maps)
            if progress is not None:
                progress(len(batch.indices) + len(batch.skipped))


def module_device(module: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a module without."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def module_dtype(module: nn.Module) -> torch.dtype:
    """Dtype of the first floating-point parameter; float32 for a module without."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def statistics_device(module: nn.Module) -> torch.device:
    """Where the maps of a network come out of the tap: its own device, or the CPU for one without float64."""
    device = module_device(module)
    return torch.device("cpu") if device.type == "mps" else device


def prepare(images: Tensor, module: nn.Module, normalize: Normalize | None) -> Tensor:
    """Images as the network takes them: uint8 scaled to [0, 1], normalised, on its device and in its dtype.

    Raises:
        DatasetError: If ``normalize`` is for another number of channels.
    """
    device = module_device(module)
    images = images.to(device, non_blocking=True)
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if normalize is not None:
        if {len(values) for values in normalize} - {1, images.shape[1]}:
            raise DatasetError(f"normalize is for {len(normalize[0])} channels; the images have {images.shape[1]}")
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in normalize)
        images = (images - mean) / std
    return images.to(module_dtype(module))
