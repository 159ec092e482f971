"""What the layers give for one image: found by running it, before the first epoch."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.layers import LayerInfo, named_layers, resolve_layers
from lightning_interp.probing.runner import Forward
from lightning_interp.probing.tap import tap


def describe_layers(
    module: nn.Module, names: Sequence[str], example: Tensor, forward: Forward | None = None
) -> dict[str, LayerInfo]:
    """Resolve layer names and learn the shapes of their maps from one forward pass.

    Call it inside :func:`~lightning_interp.probing.session.probing`.

    Args:
        module: The network, unwrapped.
        names: Paths, globs, or ``"auto"`` for the last layer whose maps are larger than 1x1.
        example: ``(1, C, H, W)``, prepared for the network.
        forward: How to call the network; ``module`` itself by default.

    Raises:
        LayerError: If a name does not resolve, or a layer does not give one ``(B, U, H, W)`` map a forward.
    """
    forward = module if forward is None else forward
    wanted = [name for name in names if name != "auto"] if not isinstance(names, str) else names
    found = resolve_layers(module, wanted) if wanted or not names else {}
    if len(wanted) < len(names):
        found |= _last_spatial(module, example, forward)
    with tap(found) as taps:
        forward(example)
        maps = taps.collect()
    for name, values in maps.items():
        if values.shape[0] != len(example) or 0 in values.shape:
            raise LayerError(f"layer '{name}' gives shape {tuple(values.shape)} for one image")
    return {name: LayerInfo(name, *map(int, values.shape[1:])) for name, values in maps.items()}


def _last_spatial(module: nn.Module, example: Tensor, call: Forward) -> dict[str, nn.Module]:
    """The last layer to finish whose output is one map larger than 1x1, and which runs once."""
    finished: list[str] = []
    handles = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            finished.append(name)

    layers = named_layers(module)
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(lambda _m, _a, out, name=name: note(name, out)))
        call(example)
    finally:
        for handle in handles:
            handle.remove()
    for name in reversed(finished):
        if finished.count(name) == 1:
            return {name: layers[name]}
    raise LayerError("'auto' found no layer with maps larger than 1x1; name a layer")
