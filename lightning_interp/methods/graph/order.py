"""Which of two layers lies above the other."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.runner import Forward
from lightning_interp.probing.tap import tap


def check_descends(
    module: nn.Module, layers: Mapping[str, nn.Module], example: Tensor, forward: Forward | None = None
) -> None:
    """Raise unless each layer lies above the next: its maps depend on what the next one gives.

    Call it inside :func:`~lightning_interp.probing.session.probing`.

    Args:
        module: The network, unwrapped.
        layers: The layers by name, top first.
        example: ``(1, C, H, W)``, prepared for the network.
        forward: How to call the network; ``module`` itself by default.

    Raises:
        LayerError: If a layer does not depend on the next one, naming the right order where there is one.
    """
    call = module if forward is None else forward
    for upper, lower in pairwise(layers):
        if not _depends(upper, lower, module, layers, example, call):
            if _depends(lower, upper, module, layers, example, call):
                right = _sorted(list(layers), upper, lower)
                raise LayerError(f"layers go from the top down, and '{lower}' lies above '{upper}'; give {right}")
            raise LayerError(
                f"'{upper}' does not depend on '{lower}', so it cannot have patterns that tell where those of "
                f"'{lower}' are; name layers of which each lies above the next"
            )


def _sorted(names: Sequence[str], upper: str, lower: str) -> list[str]:
    """The names with these two, which stand next to one another, exchanged."""
    swapped = {upper: lower, lower: upper}
    return [swapped.get(name, name) for name in names]


def _depends(
    upper: str, lower: str, module: nn.Module, layers: Mapping[str, nn.Module], example: Tensor, call: Forward
) -> bool:
    """Whether NaN in place of all that the lower layer gives reaches the upper one, after which the pass ends."""

    def spoil(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return torch.full_like(output, torch.nan)

    def end(_module: nn.Module, _args: object, _output: object) -> None:
        raise _Seen

    handles = [layers[lower].register_forward_hook(spoil)]
    try:
        with tap({upper: layers[upper]}) as taps:
            handles.append(layers[upper].register_forward_hook(end))
            # What lies above need not bear NaN.
            with suppress(_Seen):
                call(example)
            return bool(taps.collect()[upper].isnan().any())
    finally:
        for handle in handles:
            handle.remove()


class _Seen(Exception):  # noqa: N818 - no error
    """The upper layer has given its maps."""
