"""The package's own errors, so that callers can tell a bad input from a bug."""


class InterpError(Exception):
    """Base of every error that this package raises on purpose."""


class DatasetError(InterpError, ValueError):
    """A probe set is malformed; the message names the file, and the line and column where there is one."""


class LayerError(InterpError, ValueError):
    """A layer name does not resolve, or the layer does not give a (B, U, H, W) map exactly once a forward."""


class ResponseError(LayerError):
    """A layer's responses say nothing: silent on all images, or NaN or infinite on one. Training may get it there."""


class ProbeError(InterpError, RuntimeError):
    """A probe failed on at least one process; every process raises it with the same text."""


class MissingExtraError(InterpError, ImportError):
    """An optional dependency is absent; the message gives the ``pip install`` line."""
