"""Forward passes over a probe set, without Lightning: tap layers, leave no trace."""

from lightning_interp.probing.layers import LayerInfo, resolve_layers
from lightning_interp.probing.runner import run
from lightning_interp.probing.session import probing
from lightning_interp.probing.tap import tap

__all__ = ["LayerInfo", "probing", "resolve_layers", "run", "tap"]
