"""Layer names: exact paths, globs and ``auto``, resolved to modules before anything runs."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from lightning_interp.errors import LayerError

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
            :func:`~lightning_interp.probing.describe.describe_layers`.

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
    near = difflib.get_close_matches(name, layers, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"the layers are {_some(layers)}"
    raise LayerError(f"unknown layer '{name}'; {hint}")


def _glob(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _some(layers: Iterable[str], limit: int = 12) -> str:
    names = list(layers)
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
