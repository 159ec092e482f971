"""Layer names: exact paths, globs and ``auto``, resolved to modules before anything runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from lightning_interp.errors import LayerError, unknown
from lightning_interp.probing.runner import Forward
from lightning_interp.probing.tap import tap

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class LayerInfo:
    """What a layer gives for one image: ``units`` maps of ``height`` by ``width`` values."""

    name: str
    units: int
    height: int
    width: int


def canonical_name(path: str) -> str:
    """A module path without the segments that compilation and sharding wrappers insert.

    Example:
        >>> canonical_name("net._orig_mod.layer4.0")
        'net.layer4.0'
    """
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def named_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every submodule by canonical path, the root excluded; of nested wrappers the outermost."""
    layers: dict[str, nn.Module] = {}
    for path, child in module.named_modules():
        name = canonical_name(path)
        if name and name not in layers:
            layers[name] = child
    return layers


def resolve_layers(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules of the layers asked for, in the order asked and, within a glob, in the order of the module.

    Args:
        module: The network.
        names: Module paths (``"layer4"``, ``"features.17.conv"``) or globs in which ``*`` and ``?`` stay within
            one segment (``"layer*"``, ``"layer4.*.conv2"``). ``"auto"`` needs a forward: see
            :func:`~lightning_interp.probing.layers.describe_layers`.

    Raises:
        LayerError: If a name is empty or unknown (with near matches), or a glob matches nothing.
    """
    if isinstance(names, str):
        raise LayerError(f"layers must be a list of names; write layers=[{names!r}]")
    if not names:
        raise LayerError("no layer given; name at least one, or 'auto'")
    layers = named_layers(module)
    found: dict[str, nn.Module] = {}
    for name in names:
        for match in _matches(canonical_name(name), layers):
            found[match] = layers[match]
    return found


def _matches(name: str, layers: Mapping[str, nn.Module]) -> list[str]:
    if not name:
        raise LayerError("an empty layer name stands for the whole network; name one of its layers")
    if name in layers:
        return [name]
    if any(mark in name for mark in "*?["):
        matches = [path for path in layers if _glob(path, name)]
        if not matches:
            raise LayerError(f"no layer matches '{name}'; the layers are {_some(layers)}")
        return matches
    raise unknown(name, layers, "layer", LayerError, most=3, otherwise=f"the layers are {_some(layers)}")


def _glob(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _some(layers: Iterable[str], limit: int = 12) -> str:
    names = list(layers)
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


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
