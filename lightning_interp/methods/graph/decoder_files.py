"""Files of decoders: their weights alone, from whose shapes they are built again."""

from pathlib import Path

import torch

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.up_convolution import UpConvolution
from lightning_interp.results.files import read_safetensors, write_safetensors


def save_decoder(decoder: UpConvolution, path: Path) -> None:
    """Write the weights of a decoder as safetensors, atomically.

    Raises:
        MissingExtraError: If safetensors is not installed.
    """
    write_safetensors(path, {name: value.cpu().numpy() for name, value in decoder.state_dict().items()})


def load_decoder(path: Path) -> UpConvolution:
    """Read a decoder on the CPU, in eval mode.

    Raises:
        DatasetError: If the file is absent, damaged, or of something else.
        MissingExtraError: If safetensors is not installed.
    """
    try:
        arrays = read_safetensors(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}; recipes/graph_decoder writes such a file") from error
    try:
        return UpConvolution.from_state({name: torch.from_numpy(value) for name, value in arrays.items()})
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}; recipes/graph_decoder writes such a file") from error
