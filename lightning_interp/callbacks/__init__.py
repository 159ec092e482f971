"""Callbacks for a Lightning ``Trainer``."""

from lightning_interp.callbacks.dissection import NetworkDissection

__all__ = ["NetworkDissection"]
