"""Pictures are written in a third of the time, by every process of the tests that imports this."""

import zlib

from PIL import Image, PngImagePlugin
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow


def save_quickly(image, file, name):
    """The same pixels, in a larger file."""
    image.encoderinfo.setdefault("compress_level", 1)
    PngImagePlugin._save(image, file, name)


Image.register_save("PNG", save_quickly)
# TensorBoard's own checksum, byte by byte in Python, takes as long as the picture; what is read here was written here.
pywrap_tensorflow.crc32c = zlib.crc32
