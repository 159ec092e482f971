"""Networks that help to look into another one."""

from lightning_interp.modules.up_convolution import UpConvolution

__all__ = ["UpConvolution"]
