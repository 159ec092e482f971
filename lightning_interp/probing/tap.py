"""Reading the outputs of layers during a forward pass, with hooks that never outlive their ``with`` block."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.errors import LayerError


class Tap:
    """Outputs of the tapped layers; made by :func:`tap`."""

    def __init__(self, names: Mapping[str, nn.Module]) -> None:
        self._outputs: dict[str, list[Any]] = {name: [] for name in names}

    def record(self, name: str, module: nn.Module, args: object, output: object) -> None:
        """Forward hook: keep a float32 copy, for a later in-place layer may overwrite the output."""
        if isinstance(output, Tensor) and output.is_floating_point():
            output = output.detach()
            # MPS has no float64, which thresholds and upsampling need.
            output = output.cpu() if output.device.type == "mps" else output
            output = output.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        self._outputs[name].append(output)

    def fired(self, name: str) -> int:
        """How often the layer has run since the last :meth:`collect`."""
        return len(self._outputs[name])

    def collect(self) -> dict[str, Tensor]:
        """The ``(B, U, H, W)`` float32 maps of every layer for the forward pass since the last call.

        Raises:
            LayerError: If a layer did not run exactly once, or its output is not one 4-D floating-point tensor.
        """
        outputs, self._outputs = self._outputs, {name: [] for name in self._outputs}
        return {name: _one_map(name, runs) for name, runs in outputs.items()}


def _one_map(name: str, runs: list[Any]) -> Tensor:
    if len(runs) != 1:
        advice = "the forward pass does not use it" if not runs else "tap a submodule that runs once for every image"
        raise LayerError(f"layer '{name}' ran {len(runs)} times in a forward pass, expected 1; {advice}")
    output = runs[0]
    if not isinstance(output, Tensor):
        raise LayerError(
            f"layer '{name}' gives a {type(output).__name__}; expected one tensor (B, U, H, W): tap a submodule"
        )
    if output.ndim != 4 or not output.is_floating_point():
        raise LayerError(
            f"layer '{name}' gives shape {tuple(output.shape)} ({output.dtype}); expected float maps (B, U, H, W)"
        )
    return output


@contextmanager
def tap(layers: Mapping[str, nn.Module]) -> Iterator[Tap]:
    """Tap layers for the time of a ``with`` block.

    Run forwards inside :func:`~lightning_interp.probing.session.probing`: a compiled module ignores hooks that
    are added after its first call unless it is forced to run eagerly.

    Args:
        layers: Modules by name, from :func:`~lightning_interp.probing.layers.resolve_layers`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        >>> with tap({"0": net[0]}) as taps:
        ...     _ = net(torch.zeros(2, 3, 5, 5))
        ...     maps = taps.collect()
        >>> maps["0"].shape
        torch.Size([2, 4, 5, 5])
    """
    taps = Tap(layers)
    handles = []
    try:
        for name, module in layers.items():
            handles.append(module.register_forward_hook(partial(taps.record, name)))
        yield taps
    finally:
        for handle in handles:
            handle.remove()
