"""The receptive fields of a layer's values: where they are and how large, measured on the network itself."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_interp.errors import LayerError
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.runner import module_device, module_dtype

# Pixels; a multiple of any usual total stride, so that size-dependent padding stays as it is.
_GROWTH = 128
_LARGEST = 4096
_NARROW = 96


class _Reached(Exception):  # noqa: N818 - unwinds the forward pass, not an error
    """The layer has run; the rest of the forward pass is not needed."""


@dataclass(frozen=True)
class ReceptiveField:
    """The theoretical receptive fields of a layer along one axis of the image, all in pixels.

    The value at position ``i`` of the map depends on the pixels ``start + i * stride`` up to, but not including,
    ``start + i * stride + size``, as far as they are in the image.

    Args:
        start: First pixel of the first value's field; negative where padding lies in it.
        size: Pixels of a field: from the first that a value depends on to the last (dilation leaves holes).
        stride: Step between the fields of neighbouring values.
    """

    start: int
    size: int
    stride: int

    @property
    def centre(self) -> float:
        """Centre of the first value's field, whole numbers being centres of pixels; half of one for an even size."""
        return self.start + (self.size - 1) / 2


def receptive_field(
    module: nn.Module,
    layer: nn.Module,
    name: str,
    image_size: tuple[int, int],
    channels: int,
    axis: int,
    *,
    guess: ReceptiveField | None = None,
) -> ReceptiveField:
    """Theoretical receptive fields of a layer along one axis of the image, whatever lies between it and the image.

    A value depends on an input pixel if it turns NaN when the pixel does, so kernels, dilation, pooling, padding and
    branches need no rules of their own. A receptive field that reaches over the border shows only in part, so the
    field is measured in the middle of an image that is long along this axis (by a whole number of steps, which keeps
    any size-dependent padding) and narrow along the other.

    Args:
        module: The network, in eval mode, on any device.
        layer: The layer in it.
        name: Its name, for errors.
        image_size: ``(H, W)`` of the probe images.
        channels: Channels of an image.
        axis: 0 for rows, 1 for columns.
        guess: What the fields may be, such as those along the other axis; a right one saves most forward passes, a
            wrong one costs a few.

    Raises:
        LayerError: If the field covers the whole image however large (squeeze-and-excitation, attention...), the
            fields do not follow one another by whole pixels (after upsampling), their size depends on that of the
            image (after adaptive pooling), or the network does not run the layer on images of another size.
    """
    probe = _AxisProbe(module, layer, name, channels, axis)
    size = image_size[axis] + _GROWTH
    while size <= _LARGEST:
        count = probe.count(size)
        middle = count // 2
        if middle + 2 < count and probe.holds(size, middle):
            start = None if guess is None else guess.start + middle * guess.stride
            low = probe.low(size, middle, start)
            high = probe.high(size, middle, None if guess is None or start is None else start + guess.size - 1)
            second = probe.low(size, middle + 1, None if guess is None else low + guess.stride)
            stride = second - low
            if stride <= 0 or probe.low(size, middle + 2, second + stride) != second + stride:
                raise LayerError(
                    f"the receptive fields of layer '{name}' do not follow one another by whole pixels; "
                    "use upsample='cell'"
                )
            # An adaptive pooling gives as many values of a larger image, each with a larger field.
            if probe.count(size + stride) != count + 1:
                raise LayerError(
                    f"the receptive fields of layer '{name}' grow with the image (adaptive pooling?); "
                    "use upsample='cell' or an earlier layer"
                )
            return ReceptiveField(low - middle * stride, high - low + 1, stride)
        size += _GROWTH * -(-size // _GROWTH)
    raise LayerError(
        f"layer '{name}' sees the whole image from every position, so its receptive field has no centre; "
        "use upsample='cell'"
    )


def receptive_axis(
    module: nn.Module, layer: nn.Module, name: str, image_size: tuple[int, int], channels: int, axis: int
) -> tuple[int, float]:
    """Centre of the first value's receptive field, and the step between two, along one axis of the image.

    Args and errors are those of :func:`receptive_field`.

    Returns:
        ``(first, step)`` in image pixels: the centre is the middle pixel ``start + size // 2`` of the field, as
        NetDissect's ``upsample.composed_fieldmap`` has it.
    """
    field = receptive_field(module, layer, name, image_size, channels, axis)
    return field.start + field.size // 2, float(field.stride)


class _AxisProbe:
    """Which positions along one axis a value of the layer depends on."""

    def __init__(self, module: nn.Module, layer: nn.Module, name: str, channels: int, axis: int) -> None:
        self.module, self.layer, self.name, self.channels, self.axis = module, layer, name, channels, axis
        self.device, self.dtype = module_device(module), module_dtype(module)
        # Searches for neighbouring values take the same way but for its end.
        self._known: dict[tuple[int, int, int], Tensor] = {}

    def count(self, size: int) -> int:
        """Values along the axis for an image of that size."""
        return len(self._broken(size, 0, 0))

    def holds(self, size: int, position: int) -> bool:
        """Whether the field of the value at ``position`` ends before both borders."""
        return not (self._broken(size, 0, 1)[position] or self._broken(size, size - 1, size)[position])

    def low(self, size: int, position: int, guess: int | None) -> int:
        """First pixel along the axis that the value at ``position`` depends on."""
        return self._edge(size, position, lambda edge: (0, edge + 1), guess)

    def high(self, size: int, position: int, guess: int | None) -> int:
        """Last pixel along the axis that the value at ``position`` depends on."""
        mirrored = None if guess is None else size - 1 - guess
        return size - 1 - self._edge(size, position, lambda edge: (size - 1 - edge, size), mirrored)

    def _edge(self, size: int, position: int, pixels: Callable[[int], tuple[int, int]], guess: int | None) -> int:
        """Smallest edge for which breaking the pixels up to it breaks the value."""
        low, high = 0, size - 1
        # A right guess breaks the value, and the pixel before it does not.
        guesses = iter(() if guess is None else (guess, guess - 1))
        while low < high:
            middle = next((edge for edge in guesses if low <= edge < high), (low + high) // 2)
            if self._broken(size, *pixels(middle))[position]:
                high = middle
            else:
                low = middle + 1
        return low

    def _broken(self, size: int, start: int, stop: int) -> Tensor:
        """``(length,)`` bool, values that are NaN when the pixels from ``start`` up to ``stop`` are."""
        key = size, start, stop
        if key not in self._known:
            image = torch.zeros(1, self.channels, size, _NARROW, dtype=self.dtype, device=self.device)
            image[:, :, start:stop] = torch.nan
            nan = self._output(image if self.axis == 0 else image.mT.contiguous()).isnan().any(1)[0]
            self._known[key] = nan.any(1 - self.axis).cpu()
        return self._known[key]

    def _output(self, image: Tensor) -> Tensor:
        """What the layer gives; nothing behind it runs."""
        reached: list[Tensor] = []
        failed: Exception | None = None

        def stop(_module: nn.Module, _args: object, output: Tensor) -> None:
            reached.append(output)
            raise _Reached

        handle = self.layer.register_forward_hook(stop)
        try:
            with _exact_convolutions():
                self.module(image)
        except _Reached:
            pass
        except Exception as error:
            # Anything: the network is the user's, and may be made for images of one size.
            failed = error
        finally:
            handle.remove()
        if not reached:
            why = f" ({type(failed).__name__}: {failed})" if failed else ""
            raise LayerError(
                f"layer '{self.name}' does not run on the image of {image.shape[2]} x {image.shape[3]} pixels that its "
                f"receptive fields are measured on{why}; use upsample='cell'"
            ) from failed
        return reached[0]


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Without the transforms (Winograd, FFT) that spread one NaN over values that do not depend on it."""
    with warnings.catch_warnings(), ExitStack() as stack:
        # Merely touching the oneDNN flags warns of TF32 on Intel GPUs.
        warnings.simplefilter("ignore", UserWarning)
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


Placement = Literal["receptive_field", "cell"]


def image_grid(
    module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int], placement: Placement
) -> Grid:
    """Place a layer's values at the centres of their receptive fields, or of equal cells of the image.

    Args:
        module: The network, in eval mode.
        layer: The layer in it.
        info: Its name and shape.
        shape: ``(C, H, W)`` of the images.
        placement: Which of the two; cells for networks of which each value sees the whole image.

    Raises:
        LayerError: If the maps have one value only, or the layer has no receptive fields.
    """
    if info.height * info.width == 1:
        raise LayerError(f"layer '{info.name}' gives maps of one value, which is at no place; choose an earlier layer")
    channels, *size = shape
    axes, field = [], None
    for axis, (length, pixels) in enumerate(zip((info.height, info.width), size, strict=True)):
        own = Axis.cells(length, pixels)
        if placement == "receptive_field":
            field = receptive_field(module, layer, info.name, (size[0], size[1]), channels, axis, guess=field)
            own = Axis(length, pixels, field.centre, field.stride)
        axes.append(own)
    return Grid(*axes)
